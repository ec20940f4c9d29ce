// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

func (a *app) applyCmd() *cobra.Command {
	var files []string
	var recursive, wait bool
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Apply configuration to the mesh",
		Long: `Apply reads objects from files, directories or standard input and stores them.

Each object stands for itself: good ones are stored, bad ones are reported with
file, line and field, and make the exit code 1.

With --wait the command returns when every proxy that the change concerns has
acknowledged it, and prints how long that took; or, after --timeout, names the
proxies that have not.`,
		Example: `  lateen apply -f virtual-service-all-v1.yaml
  lateen apply -f destination-rules.yaml -f routes/ --wait
  kubectl get virtualservice reviews -o yaml | lateen apply -f -`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.apply(files, recursive, wait) }),
	}
	a.namespaced(c)
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "file, directory or - to read (repeatable)")
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "read directories within directories too")
	c.Flags().BoolVar(&wait, "wait", false, "return when every affected proxy has acknowledged")
	_ = c.MarkFlagRequired("filename")
	return c
}

func (a *app) apply(files []string, recursive, wait bool) error {
	t, err := a.target()
	if err != nil {
		return err
	}
	defer t.Close()
	objects, bad, err := a.readFiles(files, recursive)
	if err != nil {
		return err
	}
	began := a.Now()
	var waits []api.WaitRequest
	var done []string
	for _, o := range objects {
		res, err := call(a, func(ctx context.Context) (applied, error) { return t.apply(ctx, o) })
		if noMesh(err) {
			return err
		}
		if err != nil {
			a.errorf("error: %s: %s: %v", o.Source, reference(o.Key), err)
			bad++
			continue
		}
		waits = append(waits, res.wait)
		done = append(done, o.Key.String())
		fmt.Fprintf(a.Stdout, "%s %s\n", reference(o.Key), res.result)
	}
	if len(objects) == 0 && bad == 0 {
		return errors.New("no objects passed to apply")
	}
	waits = lastEpoch(waits)
	waiting := false
	if wait && len(waits) > 0 {
		if waiting, err = t.wait(waits); err != nil {
			return err
		}
	}
	answered := a.Now()
	// What only shows among all objects, such as a subset that nobody defines,
	// or at a proxy, such as a certificate file that is not there.
	_, refused, err := t.findings(done)
	if err != nil {
		return err
	}
	if wait && len(waits) > 0 && !waiting && !refused {
		a.acknowledged(began, answered)
	}
	if bad > 0 || waiting || wait && refused {
		return reported(ExitFailed)
	}
	return nil
}

// wait returns when every affected proxy runs the changes, or names those that
// do not and says so. Each replica of the control plane knows its own proxies.
func (t *target) wait(changes []api.WaitRequest) (waiting bool, err error) {
	planes, err := t.connect()
	if err != nil {
		return false, err
	}
	// The answer at the timeout is the server's; ours only guards against none.
	ctx, cancel := context.WithTimeout(t.a.ctx, t.a.timeout+5*time.Second)
	defer cancel()
	began := t.a.Now()
	left := func() time.Duration { return max(time.Millisecond, t.a.timeout-t.a.Now().Sub(began)) }
	told := map[api.WaitingProxy]bool{}
	for _, p := range planes {
		for _, c := range changes {
			c.Timeout = left()
			res, err := p.Wait(ctx, c)
			if err != nil {
				return false, err
			}
			for _, w := range res.Waiting {
				if !told[w] {
					told[w] = true
					t.a.errorf("not acknowledged by %s: %s", w.Proxy, w.Reason)
				}
			}
		}
	}
	return len(told) > 0, nil
}

// lastEpoch keeps of the changes known by their epoch the last, which holds the others.
func lastEpoch(changes []api.WaitRequest) []api.WaitRequest {
	var last api.WaitRequest
	var out []api.WaitRequest
	for _, c := range changes {
		if c.Object != nil {
			out = append(out, c)
		} else if c.Epoch > last.Epoch {
			last = c
		}
	}
	if last.Epoch > 0 {
		out = append(out, last)
	}
	return out
}

func (a *app) acknowledged(began, answered time.Time) {
	fmt.Fprintf(a.Stdout, "acknowledged by every affected proxy in %d ms\n", answered.Sub(began).Milliseconds())
}
