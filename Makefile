# The few commands that a contributor needs; each sets up .venv if need be.
.PHONY: test check format demo docs hostile lock lowest

test:
	sh scripts/test.sh

check:
	sh scripts/test.sh --collect-only -q >/dev/null

format:
	.venv/bin/ruff check --fix . && .venv/bin/ruff format .

demo:
	sh scripts/demo.sh

# The documentation as a site, in build/docs: open build/docs/index.html.
docs:
	sh scripts/docs.sh

# Every attack that docs/security.md names, about half an hour; prints how many of each.
hostile:
	.venv/bin/python scripts/hostile.py

# What demo.sh, docs.sh and test.sh install; needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --extra dev pyproject.toml --output-file scripts/requirements-dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --extra docs --constraint scripts/requirements-dev.txt pyproject.toml --output-file scripts/requirements-docs.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --constraint scripts/requirements-dev.txt pyproject.toml --output-file scripts/requirements.txt
	for file in scripts/requirements-dev.txt scripts/requirements-docs.txt scripts/requirements.txt; do \
	    { echo "# What demo.sh, docs.sh and test.sh install, each file checked by its hash; made by: make lock"; cat $$file; } \
	    >$$file.new && mv $$file.new $$file; done

# The tests with the lowest versions that pyproject.toml allows; needs uv.
lowest:
	sh scripts/test_lowest.sh
