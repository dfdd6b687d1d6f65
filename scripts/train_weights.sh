#!/bin/sh
# The recipes that made the shipped weights, start to finish (about two hours on two cores):
#   sh scripts/train_weights.sh DATA IMAGENET RUNS
# DATA holds ccp/, luma/, shoe-pairs/ and clothing/ in their upstream layouts; IMAGENET is a safetensors file of
# torchvision's mobilenet_v2; RUNS gets checkpoints and logs, and a run that was killed goes on from there.
set -eu
data=$1 imagenet=$2 runs=$3
cd "$(dirname "$0")/.."
extra=train
. scripts/setup.sh
python=.venv/bin/python photos=$data/ccp/photos

[ -e "$runs/ccp/val.json" ] || $python scripts/prepare_ccp.py "$data/ccp" "$runs/ccp"
[ -e "$runs/rendered/street.json" ] || .venv/bin/outfinder sample "$runs/rendered" --seed 1000 --items 150 --scenes 160

detector() { # ARCHITECTURE RUN INIT, further options
    architecture=$1 run=$2 init=$3
    shift 3
    $python scripts/train_detector.py --architecture "$architecture" --val "$runs/ccp/val.json" "$photos" \
        --data "$runs/ccp/train.json" "$photos" --init "$init" -o "$runs/$run" "$@"
}
rendered="--data $runs/rendered/street.json $runs/rendered/street"

# Mask R-CNN: five epochs at a constant rate, then six of cosine decay with rendered scenes mixed in.
detector maskrcnn_mobilenet_v2 mask-constant "$imagenet" --epochs 5 --decay 0
detector maskrcnn_mobilenet_v2 mask "$runs/mask-constant/weights.safetensors" --epochs 6 $rendered
# Faster R-CNN: from the body, pyramid and box head of Mask R-CNN, at a smaller input.
detector fasterrcnn_mobilenet_v2 box "$runs/mask/weights.safetensors" --epochs 2 --input-px 448 $rendered
# The Siamese embedder: 700 steps on shop items, shoe pairs, single garments and garments cut out of street photos.
$python scripts/train_embedder.py "$data" --init "$imagenet" --ccp-coco "$runs/ccp/train.json" --out "$runs/siamese" \
    --epochs 14
