GO        ?= go
ARGS      ?=
FUZZTIME  ?= 30s
GOLANGCI  := $(GO) tool -modfile=deploy/tools/go.mod golangci-lint

VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION  := $(shell git rev-parse --verify -q HEAD 2>/dev/null || echo unknown)
BRANCH    := $(shell git symbolic-ref --short -q HEAD 2>/dev/null || echo unknown)
BUILDINFO := github.com/prometheus/common/version
LDFLAGS   := -X $(BUILDINFO).Version=$(VERSION) -X $(BUILDINFO).Revision=$(REVISION) -X $(BUILDINFO).Branch=$(BRANCH)

.DEFAULT_GOAL := help
.PHONY: help demo run test lint format build golden fuzz bench

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: ## an Opper in memory with lively traffic, and the exporter against it
	$(GO) run ./deploy/demo $(ARGS)

run: ## the exporter with a real key from OPPER_API_KEY; flags in ARGS
	$(GO) run -ldflags '$(LDFLAGS)' . $(ARGS)

# The first run builds a Prometheus server and promtool, which takes minutes.
test: ## all tests
	$(GO) test -race -timeout 30m ./...

lint: ## the linters and the formatters
	$(GOLANGCI) run ./...

format: ## rewrite the Go files as the formatters want them
	$(GOLANGCI) fmt ./...

build: ## the binary opper_exporter
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o opper_exporter .

golden: ## rewrite the golden files, and the chart's copies; look at what changed before you commit
	$(GO) test ./collector -run Golden -update
	$(GO) test ./deploy/packages -run Chart -update

bench: ## the exporter beside a plain download and a plain rendition, as tables of ratios
	$(GO) run ./deploy/bench $(ARGS)

fuzz: ## every fuzz test for FUZZTIME each
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done
