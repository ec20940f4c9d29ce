// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

// noMesh reports whether the control plane could not be asked at all.
func noMesh(err error) bool {
	var e *exitError
	return errors.As(err, &e) && e.code == ExitNoMesh
}

func notFound(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == "not_found"
}

func (a *app) deleteCmd() *cobra.Command {
	var files []string
	var recursive, ignore, wait bool
	c := &cobra.Command{
		Use:   "delete {-f FILE | KIND NAME...}",
		Short: "Delete configuration from the mesh",
		Long: `Delete removes objects from the mesh. An object that was read from a file of the
mesh's directory is hidden, and the file stays as it is.`,
		Example: `  lateen delete virtualservice reviews
  lateen delete -f virtual-service-all-v1.yaml
  lateen delete dr reviews ratings -n shop`,
		Args: func(_ *cobra.Command, args []string) error {
			if (len(files) == 0) == (len(args) < 2) {
				return errors.New("name either files with -f, or a kind and names")
			}
			return nil
		},
		RunE:              verb(func(args []string) error { return a.delete(args, files, recursive, ignore, wait) }),
		ValidArgsFunction: a.completeObjects,
	}
	a.namespaced(c)
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "file, directory or - naming the objects (repeatable)")
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "read directories within directories too")
	c.Flags().BoolVar(&ignore, "ignore-not-found", false, "it is no failure that an object is not there")
	c.Flags().BoolVar(&wait, "wait", false, "return when every affected proxy has acknowledged")
	return c
}

func (a *app) delete(args, files []string, recursive, ignore, wait bool) error {
	t, err := a.target()
	if err != nil {
		return err
	}
	defer t.Close()
	var keys []config.Key
	bad := 0
	if len(args) > 0 {
		kind, err := kindOf(args[0])
		if err != nil {
			return err
		}
		for _, name := range args[1:] {
			keys = append(keys, config.Key{Kind: kind, Namespace: a.namespace, Name: name})
		}
	} else {
		objects, n, err := a.readFiles(files, recursive)
		if err != nil {
			return err
		}
		bad = n
		for _, o := range objects {
			keys = append(keys, o.Key)
		}
	}
	began := a.Now()
	var waits []api.WaitRequest
	for _, k := range keys {
		res, err := call(a, func(ctx context.Context) (applied, error) { return t.delete(ctx, k) })
		if noMesh(err) {
			return err
		}
		if notFound(err) && ignore {
			continue
		}
		if err != nil {
			a.errorf("error: %s: %v", reference(k), err)
			bad++
			continue
		}
		waits = append(waits, res.wait)
		fmt.Fprintf(a.Stdout, "%s deleted\n", reference(k))
	}
	waits = lastEpoch(waits)
	waiting := false
	if wait && len(waits) > 0 {
		if waiting, err = t.wait(waits); err != nil {
			return err
		}
		if !waiting {
			a.acknowledged(began, a.Now())
		}
	}
	if bad > 0 || waiting {
		return reported(ExitFailed)
	}
	return nil
}
