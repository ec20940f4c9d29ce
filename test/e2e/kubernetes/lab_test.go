// SPDX-License-Identifier: Apache-2.0

//go:build lab

package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var keep = flag.Bool("keep-lab", false, "leave the lab running")

// settle is how long a cluster may take until what a command should show is there.
const settle = 3 * time.Minute

// theLab is the cluster of all tests; nil when skipReason says why there is none.
var (
	theLab     *lab
	skipReason string
)

// lab is a running cluster.
type lab struct {
	root string // of the tree
	bin  string
	temp string
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(withLab(m))
}

func withLab(m *testing.M) int {
	if os.Getenv("LATEEN_LAB") == "" {
		os.Setenv("LATEEN_LAB", "e2e") // not one that somebody works with
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		panic(err)
	}
	temp, err := os.MkdirTemp("", "lateen-e2e-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(temp)
	l := &lab{root: root, bin: filepath.Join(root, "bin", "lab"), temp: temp}
	if os.Getuid() != 0 {
		skipReason = "a cluster needs root"
		return m.Run()
	}
	if err := l.start(); err != nil {
		if errors.Is(err, errUnfit) {
			skipReason = err.Error()
			return m.Run()
		}
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	theLab = l
	if !*keep {
		defer l.stop()
	}
	return m.Run()
}

// needLab returns the cluster, or skips.
func needLab(t *testing.T) *lab {
	t.Helper()
	if theLab == nil {
		t.Skip("no cluster: " + skipReason)
	}
	return theLab
}

var errUnfit = errors.New("this machine cannot run the lab")

func (l *lab) start() error {
	if out, err := l.make("bin/lab", "build"); err != nil {
		return fmt.Errorf("make bin/lab build: %w\n%s", err, out)
	}
	if out, err := l.command(context.Background(), l.bin, "check").CombinedOutput(); err != nil {
		return fmt.Errorf("%w:\n%s", errUnfit, out)
	}
	for _, target := range []string{"lab-up", "lab-images"} {
		begin := time.Now()
		if out, err := l.make(target); err != nil {
			l.stop()
			return fmt.Errorf("make %s: %w\n%s", target, err, out)
		}
		fmt.Printf("make %s: %s\n", target, time.Since(begin).Round(time.Second))
	}
	return nil
}

func (l *lab) stop() {
	if out, err := l.make("lab-down"); err != nil {
		fmt.Fprintf(os.Stderr, "make lab-down: %v\n%s", err, out)
	}
}

func (l *lab) make(targets ...string) ([]byte, error) {
	return l.command(context.Background(), "make", append([]string{"-s", "--no-print-directory"}, targets...)...).CombinedOutput()
}

func (l *lab) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = l.root
	c.WaitDelay = 10 * time.Second
	return c
}

// shell runs shell text in the cluster's network with the variables set.
func (l *lab) shell(ctx context.Context, text string, vars map[string]string) output {
	c := l.command(ctx, l.bin, "run", "bash", "-o", "pipefail", "-c", text)
	c.Env = append(os.Environ(), "PATH="+filepath.Join(l.root, "bin")+":"+os.Getenv("PATH"))
	for k, v := range vars {
		c.Env = append(c.Env, k+"="+v)
	}
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	o := output{stdout: out.String(), stderr: errs.String(), code: c.ProcessState.ExitCode(), vars: maps.Clone(vars)}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		o.stderr += err.Error()
	}
	return o
}

// must runs shell text that has to succeed.
func (l *lab) must(t *testing.T, text string) output {
	t.Helper()
	// Not the test's context, which has ended when a Cleanup runs.
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	o := l.shell(ctx, text, l.vars())
	if o.code != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", text, o.code, o.stdout, o.stderr)
	}
	return o
}

// eventually runs shell text until check is satisfied.
func (l *lab) eventually(t *testing.T, text string, check func(output) error) output {
	t.Helper()
	return l.perform(t, command{run: text, eventually: true, check: check}, l.vars())
}

// perform runs one command of a scenario and checks what it printed.
func (l *lab) perform(t *testing.T, c command, vars map[string]string) output {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	for {
		o := l.shell(ctx, c.run, vars)
		err := judge(c, o)
		if err == nil {
			return o
		}
		if !c.eventually || ctx.Err() != nil {
			t.Fatalf("%s\n%v; exit code %d\n%s%s\n%s", c.run, err, o.code, o.stdout, o.stderr, l.look())
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// look is what one would look at when a command failed.
func (l *lab) look() string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	o := l.shell(ctx, `kubectl get pods -A -o wide; kubectl get events -A --sort-by=.lastTimestamp | tail -n 30; kubectl logs -n istio-system -l app=istiod --tail=30`, nil)
	return o.stdout + o.stderr
}

// vars are the variables of every command.
func (l *lab) vars() map[string]string {
	return map[string]string{"TEMP": l.temp, "SAMPLES": filepath.Join(os.Getenv("LATEEN_ISTIO_SAMPLES"), "samples"), "GATEWAY_API": gatewayAPI(l)}
}

// gatewayAPI is the directory of the module that holds the Gateway API's definitions.
func gatewayAPI(l *lab) string {
	out, err := l.command(context.Background(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// clean leaves the cluster as a scenario wants to find it.
func (l *lab) clean(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	for _, text := range []string{
		`kubectl delete gateways.gateway.networking.k8s.io,httproutes --all -A --ignore-not-found 2>/dev/null || true`,
		`kubectl delete deployments,statefulsets,jobs,ingresses --all -n default --wait=false`,
		`kubectl delete services -n default -l component!=apiserver --wait=false`,
		`lateen x uninstall --purge --skip-confirmation || true`,
		`kubectl delete pods --all -n default --grace-period=2 --wait=true --timeout=120s`,
		`kubectl get serviceaccounts -n default -o name | sed '/serviceaccount.default$/d' | xargs -r kubectl delete -n default`,
		`kubectl label namespace default istio-injection- istio.io/rev- || true`,
		`kubectl delete namespace istio-system --ignore-not-found --wait=true --timeout=120s`,
		`kubectl delete -f $GATEWAY_API/config/crd/standard --ignore-not-found --wait=false || true`,
	} {
		if o := l.shell(ctx, text, l.vars()); o.code != 0 {
			t.Errorf("%s: exit code %d\n%s%s", text, o.code, o.stdout, o.stderr)
		}
	}
}

// TestWalkthroughs runs each document on a fresh mesh.
func TestWalkthroughs(t *testing.T) {
	l := needLab(t)
	if os.Getenv("LATEEN_ISTIO_SAMPLES") == "" {
		t.Skip("the documents apply Istio's samples: set LATEEN_ISTIO_SAMPLES")
	}
	for _, s := range scenarios {
		t.Run(s.document, func(t *testing.T) {
			t.Cleanup(func() { l.clean(t) })
			vars := l.vars()
			for _, st := range s.steps {
				ok := t.Run(st.title, func(t *testing.T) {
					for _, c := range st.commands {
						if c.pending != "" {
							t.Logf("pending: %s (%s)", c.document, c.pending)
							continue
						}
						t.Logf("$ %s", c.run)
						o := l.perform(t, c, vars)
						if c.save != "" {
							vars[c.save] = strings.TrimSpace(o.stdout)
						}
					}
				})
				if !ok {
					return // what follows builds on it
				}
			}
		})
	}
}
