# make demo   sets up, then runs Specialize-then-Unify end to end (type it again to go on, or to see the result)
# make test   sets up, then checks style and types and runs every test
# make setup  .venv with pinned packages; done again only when pyproject.toml or constraints.txt change
# make lint   style and types only
# make clean  removes .venv and caches; never runs/

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test setup lint clean

demo: setup
	@$(BIN)/palmette run recipes/demo.toml $(or $(ARGS),--resume)

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt .ci/setup
	@.ci/setup
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
