# The few commands that a contributor needs; each sets up .venv if need be.
.PHONY: test check format demo

test:
	sh scripts/test.sh

check:
	sh scripts/test.sh --collect-only -q >/dev/null

format:
	.venv/bin/ruff check --fix . && .venv/bin/ruff format .

demo:
	sh scripts/demo.sh
