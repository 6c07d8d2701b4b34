GO        ?= go
ARGS      ?=
FUZZTIME  ?= 30s
# How long a soak lasts.
export SOAK ?= 10m
GOLANGCI  := $(GO) tool -modfile=deploy/test/tools/go.mod golangci-lint
# The module of opper_backfill, which is tested and linted as the exporter is.
BACKFILL  := deploy/backfill

# The length of an abbreviation would depend on what else a clone holds.
VERSION   := $(shell git describe --tags --always --abbrev=12 --dirty 2>/dev/null || echo unknown)
REVISION  := $(shell git rev-parse --verify -q HEAD 2>/dev/null || echo unknown)
BRANCH    := $(shell git symbolic-ref --short -q HEAD 2>/dev/null || echo unknown)
BUILDINFO := github.com/prometheus/common/version
LDFLAGS   := -X $(BUILDINFO).Version=$(VERSION) -X $(BUILDINFO).Revision=$(REVISION) -X $(BUILDINFO).Branch=$(BRANCH)

.DEFAULT_GOAL := help
.PHONY: help demo run tools test test-unraced test-raced test-collector test-schedules test-backfill test-long long-soak long-usage long-rest soak lint vulncheck format build backfill reproducible golden docs fuzz bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# go run would turn Ctrl-C into an error.
demo: build ## an in-memory Opper with lively traffic, and the exporter against it; flags in ARGS, such as --prometheus
	$(GO) build -o .build/demo ./deploy/demo
	@.build/demo $(ARGS)

run: build ## the exporter with a real key from OPPER_API_KEY; flags in ARGS
	@./opper_exporter $(ARGS)

# The first run builds a Prometheus server and others, which takes minutes. Tests
# build them if need be, but then within their own time limit. The tags and flags
# are those that the tests build them with.
tools: ## the tools that the tests and the linters use
	@echo '=== building what the tests and the linters use'
	for tool in prometheus promtool; do \
		GOFLAGS="$(GOFLAGS) -tags=remove_all_sd" $(GO) tool -modfile=deploy/test/tools/go.mod -n $$tool >/dev/null || exit; \
	done
	GOFLAGS="$(GOFLAGS) -tags=remove_all_sd" $(GO) tool -modfile=deploy/test/tools/promtool3.0/go.mod -n promtool >/dev/null
	$(GO) tool -modfile=deploy/test/tools/go.mod -n golangci-lint >/dev/null
	$(GO) tool -modfile=deploy/test/tools/alertmanager/go.mod -n amtool >/dev/null
	$(GO) tool -modfile=deploy/test/tools/helm/go.mod -n helm >/dev/null
	for main in deploy/test/tools/*/main.go deploy/grafana/schema/main.go $(BACKFILL)/main.go; do $(GO) build -C "$${main%/*}" -o /dev/null . || exit; done
	@echo '=== building the exporter and the tests'
	$(GO) build ./...
	$(GO) build -race -buildvcs=false -o /dev/null .
	for module in . $(BACKFILL); do \
		CGO_ENABLED=0 $(GO) build -C $$module -trimpath -buildvcs=false -o /dev/null . && \
		CGO_ENABLED=0 GOOS=windows GOARCH=amd64 $(GO) build -C $$module -trimpath -buildvcs=false -o /dev/null . || exit; \
	done
	$(GO) test -race -run '^$$' ./... >/dev/null
	$(GO) test -C $(BACKFILL) -race -run '^$$' . $(BACKFILL_RACED) >/dev/null
	$(GO) test -C $(BACKFILL) -run '^$$' ./... >/dev/null
	$(GO) test -run '^$$' ./collector ./opper $(addprefix ./,$(UNRACED)) >/dev/null

# What one goroutine does in these packages, and what other processes do, the race
# detector cannot watch, and it makes them several times slower.
UNRACED := deploy/test/e2e deploy/prometheus deploy/grafana deploy/test/packages deploy deploy/docs/generate \
	collector/syncer collector/aggregate collector/ledger collector/usage opper/jsonscan opper/oppertest/oracle
# So it is with these tests of the collector and of opper. Many projects at once are as well with it.
UNRACED_TESTS := TestSchedules|TestHistoryIsCountedExactly|TestLiveTracesAreCountedOnceSettled|TestCalmProjectsKeepTheirInterval|TestSweepsWaitForNoSync|TestProjectIsUpWhileItWaitsForASlot|TestReloadThatMovesUsage|TestReloadOfTheUsageInterval|TestInitialSyncsTakeTurns|TestFailedSyncChangesNoNumber|TestTwoKeysOfOneOrganizationWithoutOpperProjects
UNRACED_DECODING := TestDecode
# Schedules make much garbage and keep little.
SCHEDULES := GOGC=800 $(GO) test -timeout 60m
# Where opper_backfill has goroutines, beside the program itself.
BACKFILL_RACED := ./read ./server

# The tests with real servers mostly wait, so more is tested at once than there are
# cores. Tests and what they start keep little and make much garbage: most of what is
# collected sooner is collected for nothing.
test: tools ## the tests, less than ten minutes of them on two cores
	@GOGC=400 $(MAKE) -j2 test-unraced test-raced test-collector test-backfill test-schedules

test-unraced:
	@echo '=== testing what needs no race detector'
	$(GO) test -p 3 -parallel 4 -timeout 30m $(addprefix ./,$(UNRACED))
	$(GO) test -timeout 30m ./opper -run '$(UNRACED_DECODING)'

test-raced:
	@echo '=== testing the other packages but the collector, with the race detector'
	$(GO) test -race -p 2 -timeout 30m -skip '$(UNRACED_DECODING)' $(filter-out $(addprefix opper_exporter/,collector $(UNRACED)),$(shell $(GO) list ./...))

test-backfill:
	@echo '=== testing opper_backfill'
	$(GO) test -C $(BACKFILL) -race -timeout 30m . $(BACKFILL_RACED)
	$(GO) test -C $(BACKFILL) -p 2 -timeout 30m $$($(GO) list -C $(BACKFILL) ./... | grep -Ev '/backfill(/read|/server)?$$')

test-collector:
	@echo '=== testing the collector, with the race detector'
	$(GO) test -race -timeout 30m ./collector -skip '$(UNRACED_TESTS)' -schedules 50

test-schedules:
	@echo '=== running 200 random schedules'
	$(SCHEDULES) ./collector -run 'TestSimulation|$(UNRACED_TESTS)' -schedules 200

# The soak and the servers with a history mostly wait, so the rest runs beside them.
test-long: ## many more random schedules and kills, fuzzing, and ten minutes of soak
	@$(MAKE) -j4 long-soak long-history long-usage long-rest

long-soak:
	@echo '=== ten minutes of soak'
	$(GO) run ./deploy/test/soak --for=10m

long-history:
	@echo '=== 30 days of 200 000 traces as history on a Prometheus server, and 14 days of the demo'
	$(GO) test -C $(BACKFILL) -timeout 120m ./e2e -run TestHistory -full
	$(GO) test -timeout 60m ./deploy/grafana -run TestPanelsAreFullAtFirstLook -past 336h

long-usage:
	@echo '=== running 10000 random schedules of usage over 30 days'
	$(SCHEDULES) ./collector -run 'TestSchedulesOfUsage' -schedules 10000

long-rest:
	@echo '=== running 10000 random schedules'
	$(SCHEDULES) ./collector ./collector/usage -run 'TestSimulation|TestSchedules$$|TestMonthOfTroubles' -schedules 10000
	$(GO) test -timeout 60m ./collector/syncer -run TestMovingList -seeds 10
	@echo '=== reloading 200 times at random'
	$(GO) test -race -timeout 60m ./collector -run TestReloadAtAnyMoment -reloads 200
	@echo '=== killing exporters 120 times, and scraping 20 projects over shared connections'
	$(GO) test -timeout 60m ./deploy/test/e2e -run 'SurviveSIGKILL|TestFirstIncrementIsNotLostByDiscovery' -parallel 4 -kills 40 -shared-connections
	@echo '=== testing each alert beside all rules, and with changed ones'
	$(GO) test -timeout 60m ./deploy/prometheus -run 'TestRulesPassTheirTests|TestEveryAlertIsTested' -all-rules -change-rules
	@echo '=== fuzzing'
	$(MAKE) fuzz FUZZTIME=2000x

soak: ## the real binary under random faults for the time SOAK, and a verdict
	$(GO) run ./deploy/test/soak $(ARGS)

lint: ## the linters and the formatters
	$(GOLANGCI) run ./...
	golangci=$$($(GOLANGCI:golangci-lint=-n golangci-lint)) && cd $(BACKFILL) && "$$golangci" run ./...

vulncheck: ## known vulnerabilities, where the database can be reached
	$(GO) run -C deploy/test/tools/vuln . -C '$(CURDIR)' ./...
	$(GO) run -C deploy/test/tools/vuln . -C '$(CURDIR)/$(BACKFILL)' ./...

format: ## rewrite the Go files as the formatters want them
	$(GOLANGCI) fmt ./...
	golangci=$$($(GOLANGCI:golangci-lint=-n golangci-lint)) && cd $(BACKFILL) && "$$golangci" fmt ./...

build: ## the binary opper_exporter
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o opper_exporter .

backfill: ## the binary opper_backfill, which writes the history from before the first scrape
	CGO_ENABLED=0 $(GO) build -C $(BACKFILL) -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o '$(CURDIR)/opper_backfill' .

# The second one shares no cache with the first: nothing may be taken over.
reproducible: ## two builds of a copy each, in other directories, that must be the same
	@set -e; dir=$$(mktemp -d); trap 'chmod -R u+w "$$dir"; rm -rf "$$dir"' EXIT; \
	mkdir -p "$$dir/two/deeper"; cp -R . "$$dir/one"; cp -R . "$$dir/two/deeper/copy"; \
	$(MAKE) -C "$$dir/one" build; GOCACHE="$$dir/cache" $(MAKE) -C "$$dir/two/deeper/copy" build; \
	sha256sum "$$dir/one/opper_exporter" "$$dir/two/deeper/copy/opper_exporter"; \
	cmp "$$dir/one/opper_exporter" "$$dir/two/deeper/copy/opper_exporter"

golden: ## rewrite the golden files, and the chart's copies; look at what changed before you commit
	$(GO) test ./collector -run Golden -update
	$(GO) test ./deploy/test/packages -run Chart -update

docs: ## rewrite the tables of flags and metrics in deploy/docs
	$(GO) run ./deploy/docs/generate
	$(GO) test -C $(BACKFILL) . -run FlagsAreDocumented -update

bench: ## the exporter compared with a plain download and a plain implementation, as tables of ratios
	$(GO) run ./deploy/test/bench $(ARGS)

fuzz: ## every fuzz test for FUZZTIME, a duration or a number of runs, each
	@set -e; for module in . $(BACKFILL); do for pkg in $$($(GO) list -C $$module ./...); do \
		for target in $$($(GO) test -C $$module -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -C $$module -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x $$pkg; \
		done; \
	done; done
