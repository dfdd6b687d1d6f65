#!/bin/sh
# The recipes that made the shipped weights, start to finish (about six hours on two cores):
#   sh scripts/train_weights.sh DATA IMAGENET RUNS
# DATA holds ccp/, luma/, shoe-pairs/ and clothing/ in their upstream layouts; IMAGENET is a safetensors file of
# torchvision's mobilenet_v2; RUNS gets checkpoints and logs, and a run that was killed goes on from there.
set -eu
data=$1 imagenet=$2 runs=$3
cd "$(dirname "$0")/.."
extra=train
. scripts/setup.sh
python=.venv/bin/python outfinder=.venv/bin/outfinder
photos=$data/ccp/photos ccp=$runs/ccp

[ -e "$ccp/tags.csv" ] || $python scripts/recipes/ccp.py "$data/ccp" "$ccp"
[ -e "$runs/clothing.json" ] || $python scripts/recipes/clothing.py "$data/clothing" "$runs/clothing.json"
[ -e "$runs/street/street.json" ] || $python scripts/render_sample "$runs/street" --seed 1000 --items 150 --scenes 160
[ -e "$runs/shop/street.json" ] || $python scripts/render_sample "$runs/shop" --seed 1001 --items 65 --scenes 1

detector() { # RUN START, further options and data
    run=$1 start=$2
    shift 2
    $outfinder train detector "$ccp/train.json" "$photos" --val "$ccp/val.json" "$photos" --start "$start" \
        --output "$runs/$run" --set "about=Clothing Co-Parsing (Apache-2.0), clothing-dataset (CC0), rendered scenes" "$@"
}
rendered="$runs/street/street.json $runs/street/street"

# Mask R-CNN. A teacher: CCP at a constant rate, then rendered scenes too and a falling rate.
detector mask-1 "$imagenet" --rounds 5 --set decay=0 --set rare=0 --set paste=0
detector mask-2 "$runs/mask-1/weights.safetensors" --rounds 6 --set rare=0 --set paste=0 $rendered
# It labels the photos of which CCP has only tags.
pseudo() { # FILE RUN [DETECTOR]
    [ -e "$ccp/$1" ] || $python scripts/recipes/pseudo_label.py "$ccp/tags.csv" "$photos" "$ccp/$1" \
        --detector "${3:-maskrcnn_mobilenet_v2}" --detector-weights "$runs/$2/weights.safetensors"
}
pseudo pseudo-1.json mask-2
# The student: a constant rate again, then all there is, rare labels more often, garments pasted.
single="$runs/clothing.json $data/clothing/images $runs/shop/shop.json $runs/shop"
detector mask-3 "$runs/mask-2/weights.safetensors" --rounds 8 --set decay=0 --set rare=0 --set paste=0 --set seed=1 $rendered
detector mask-4 "$runs/mask-3/weights.safetensors" --rounds 9.5 --set decay=0.6 --set seed=2 $rendered $single \
    "$ccp/pseudo-1.json" "$photos"
# Further with single garments that it outlines itself, and labels of both mirror images; and once more with its own,
# which are better: what is shipped.
more() { # FILE RUN
    [ -e "$runs/$1" ] || $python scripts/recipes/clothing.py "$data/clothing" "$runs/$1" --per-label 130 \
        --besides "$runs/clothing.json" --detector maskrcnn_mobilenet_v2+flip \
        --detector-weights "$runs/$2/weights.safetensors"
}
more more.json mask-4
pseudo pseudo-3.json mask-4 maskrcnn_mobilenet_v2+flip
detector mask-6 "$runs/mask-4/weights.safetensors" --rounds 4.9 --set decay=0.6 --set seed=5 $rendered $single \
    "$runs/more.json" "$data/clothing/images" "$ccp/pseudo-3.json" "$photos"
more more-2.json mask-6
pseudo pseudo-4.json mask-6 maskrcnn_mobilenet_v2+flip
detector mask-8 "$runs/mask-6/weights.safetensors" --input-px 576 --rounds 4.4 --set decay=0.7 --set seed=8 $rendered $single \
    "$runs/more-2.json" "$data/clothing/images" "$ccp/pseudo-4.json" "$photos"
# Faster R-CNN: from the body, pyramid and box head of Mask R-CNN, at a smaller input.
detector box "$runs/mask-6/weights.safetensors" --architecture fasterrcnn_mobilenet_v2 --input-px 448 --rounds 1.6 \
    --set seed=6 $rendered $single "$runs/more.json" "$data/clothing/images" "$ccp/pseudo-3.json" "$photos"
# The Siamese embedder: 1,000 steps on shop items, shoe pairs, single garments and garments cut out of street photos.
$python scripts/train_embedder.py "$data" --init "$imagenet" --ccp-coco "$ccp/train.json" --out "$runs/siamese"
# Three small ones alike but for the crop that they are trained on, to compare crops with: five minutes each.
$python scripts/train_crop_embedders.py "$photos" --coco "$ccp/train.json" --start "$imagenet" --out "$runs/crops"
