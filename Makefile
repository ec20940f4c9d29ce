# Every target does its own set-up. CONTRIBUTING.md says when to use which.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

export CGO_ENABLED ?= 0
export GOTOOLCHAIN ?= local

# Istio's own YAML, as input for tests. Without it those tests skip and say so.
ifndef LATEEN_ISTIO_SAMPLES
ifneq ($(wildcard ../shared/samples/istio),)
export LATEEN_ISTIO_SAMPLES := $(abspath ../shared/samples/istio)
endif
endif

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# gRPC's own request tracing links html/template, and with it the linker keeps
# every exported method: 9 MB of lateen-proxy.
TAGS     := grpcnotrace
BINARIES := lateen lateend lateen-proxy bookinfo
MODULES  := . test/interop test/lab
# Directories whose tests run after all others, each alone, with their build
# tag: whole meshes under load, the second on a real cluster where there can be
# one.
ALONE    := test/e2e:e2e test/e2e/kubernetes:lab

.PHONY: build demo test lint bench bench-control bench-kubernetes fuzz lab-up lab-down lab-images gateway-api-crds clean

build: $(BINARIES:%=bin/%)

# go build itself knows best what is out of date.
.PHONY: $(BINARIES:%=bin/%)
$(BINARIES:%=bin/%): bin/%:
	go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*

demo: build
	bin/lateen demo

test: lab-build
	CGO_ENABLED=1 go run ./test/run -race $(MODULES) $(ALONE)

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	for m in $(MODULES); do (cd $$m && go mod verify >/dev/null && go vet ./... ); done
	go vet -tags e2e,lab,faults ./test/e2e/...
	go tool staticcheck ./...
	go tool staticcheck -tags e2e,lab,faults ./test/e2e/...
	@echo lint ok

# Debian packages when root; otherwise they must be there.
bench: build
	@for p in wrk haproxy nginx; do \
	  command -v $$p >/dev/null || [ -x /usr/sbin/$$p ] || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk haproxy nginx; } \
	  || { echo "bench needs $$p (Debian package $$p)"; exit 1; }; done
	go run ./test/bench $(BENCHFLAGS)

bench-control: build
	go run ./test/bench/controlplane $(BENCHFLAGS)

# In a lab of its own (docs/lab.md): needs root and LATEEN_ISTIO_SAMPLES. A
# sidecar asks for 100m, which two cores have for fewer of them than are measured.
bench-kubernetes: export LATEEN_LAB := bench
bench-kubernetes: build bin/lab
	trap 'bin/lab down' EXIT; bin/lab up; bin/lab images build --tag $(VERSION); \
	bin/lab run go run ./test/bench/controlplane -kubernetes; \
	bin/lab run bin/lateen install --set tag=$(VERSION) --set values.global.proxy.resources.requests.cpu=10m --skip-confirmation; \
	bin/lab run go run ./test/bench/kubernetes $(BENCHFLAGS)

# Ten seconds for every fuzz target.
FUZZTIME ?= 10s
fuzz:
	@for f in $$(grep -rlE '^func Fuzz' --include=*_test.go .); do d=$$(dirname $$f); \
	  for t in $$(grep -oE '^func Fuzz[A-Za-z0-9_]*' $$f | cut -d' ' -f2); do \
	    echo "== $$d $$t"; (cd $$d && go test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) .); done; done

# A real Kubernetes on this machine (docs/lab.md); needs root.
.PHONY: bin/lab
bin/lab:
	cd test/lab && go build -trimpath -o ../../bin/lab ./cmd/lab

# What the lab is made of, and what its tests call; nothing where it cannot run.
.PHONY: lab-build
lab-build: bin/lab
	@if ! bin/lab check >/dev/null; then echo "no lab: bin/lab check says why"; exit 0; fi; \
	for p in curl openssl; do command -v $$p >/dev/null || { apt-get update -qq; apt-get install -y -qq --no-install-recommends $$p; }; done; \
	bin/lab build

# What goes wrong, under load: the control plane, the API server, pods, and in a
# lab of two a node. Minutes of it, so not among the tests of every change.
.PHONY: test-faults test-node-gone
test-faults: lab-build
	go test -tags lab,faults -count=1 -v -timeout 30m -run TestFaults ./test/e2e/kubernetes
test-node-gone: lab-build
	NODES=2 go test -tags lab,faults -count=1 -v -run TestNodeGone ./test/e2e/kubernetes

NODES ?= 1
lab-up: bin/lab
	bin/lab up --nodes $(NODES)

lab-down: bin/lab
	bin/lab down

# The Gateway API's definitions, where its module has them: kubectl apply
# --server-side -f "$(make -s gateway-api-crds)".
gateway-api-crds:
	@echo "$$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/standard"

lab-images: bin/lab
	bin/lab images build --tag $(VERSION)

clean:
	rm -rf bin
