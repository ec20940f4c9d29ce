// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

type getFlags struct {
	output string
	all    bool
}

func (a *app) getCmd() *cobra.Command {
	var f getFlags
	c := &cobra.Command{
		Use:   "get KIND[,KIND...] [NAME...]",
		Short: "Show configuration of the mesh",
		Long: `Get shows objects with the file and line each comes from. An object that is not
in force as it is written, because it names something that does not exist, says
so in the wide table and on standard error.

Kinds: ` + strings.Join(kindNames(), ", ") + `.`,
		Example: `  lateen get virtualservices
  lateen get vs,dr
  lateen get vs reviews -o yaml
  lateen get serviceentries -A -o wide`,
		Args:              cobra.MinimumNArgs(1),
		RunE:              verb(func(args []string) error { return a.get(args, f) }),
		ValidArgsFunction: a.completeObjects,
	}
	a.namespaced(c)
	c.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "show the objects of every namespace")
	c.Flags().StringVarP(&f.output, "output", "o", "table", "table, wide, yaml, json or name")
	return c
}

func kindNames() []string {
	var out []string
	for _, k := range config.Kinds() {
		s := k.Plural
		if len(k.Short) > 0 {
			s += " (" + strings.Join(k.Short, ", ") + ")"
		}
		out = append(out, s)
	}
	return out
}

func kindOf(word string) (*config.Kind, error) {
	k, near := config.FindKind(word)
	switch {
	case k != nil:
		return k, nil
	case near != "":
		return nil, exit(ExitUsage, "there is no kind %q: did you mean %q?", word, near)
	}
	return nil, exit(ExitUsage, "there is no kind %q: there are %s", word, strings.Join(kindNames(), ", "))
}

// kindsOf reads one kind or several, separated by commas as kubectl has them.
func kindsOf(words string) ([]*config.Kind, error) {
	var out []*config.Kind
	for word := range strings.SplitSeq(words, ",") {
		k, err := kindOf(word)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

func (a *app) get(args []string, f getFlags) error {
	if err := oneOf("output", f.output, "table", "wide", "yaml", "json", "name"); err != nil {
		return err
	}
	kinds, err := kindsOf(args[0])
	if err != nil {
		return err
	}
	t, err := a.target()
	if err != nil {
		return err
	}
	defer t.Close()
	var all []objectsOf
	incomplete := false
	for _, kind := range kinds {
		items, missing, err := t.fetch(kind, args[1:], f)
		if err != nil {
			return err
		}
		incomplete = incomplete || len(missing) > 0
		all = append(all, objectsOf{kind, items})
	}
	if err := a.printObjects(all, f, len(args) == 2); err != nil {
		return err
	}
	if incomplete {
		return reported(ExitFailed)
	}
	return nil
}

// objectsOf are the objects of one kind.
type objectsOf struct {
	kind  *config.Kind
	items []api.Object
}

// fetch gets the objects of a kind, the named ones when there are names, and
// says on standard error what is missing or worth knowing.
func (t *target) fetch(kind *config.Kind, names []string, f getFlags) (items []api.Object, missing []string, err error) {
	a := t.a
	namespace := a.namespace
	if f.all || kind == config.MeshConfig {
		namespace = ""
	}
	list, err := call(a, func(ctx context.Context) ([]api.Object, error) { return t.list(ctx, kind, namespace) })
	if err != nil {
		return nil, nil, err
	}
	items, missing = pick(list, names)
	if err := t.notes(items); err != nil {
		return nil, nil, err
	}
	where := cmp.Or(prefix("namespace ", namespace), "any namespace")
	for _, name := range missing {
		a.errorf("error: %s not found in %s", reference(config.Key{Kind: kind, Name: name}), where)
	}
	if len(items)+len(missing) == 0 {
		a.errorf("No %s found in %s.", kind.Plural, where)
	}
	return items, missing, nil
}

// notes tells what is to be known about the objects shown, on standard error:
// what the control plane found, or why an object is not in force as written.
func (t *target) notes(items []api.Object) error {
	keys := make([]string, len(items))
	for i, o := range items {
		keys[i] = o.Kind + "/" + o.Namespace + "/" + o.Name
	}
	told, _, err := t.findings(keys)
	if err != nil {
		return err
	}
	for i, o := range items {
		if o.Held != "" && !told[keys[i]] {
			t.a.errorf("note: %s: %s", keys[i], o.Held)
		}
	}
	return nil
}

// findings prints what the control plane found about some objects, given as
// kind/namespace/name. It returns which it has said something about, and whether
// a proxy refuses one of them. In a cluster objects can be had without a control
// plane, and then it says that nothing was found out about them.
func (t *target) findings(keys []string) (told map[string]bool, refused bool, err error) {
	if len(keys) == 0 {
		return nil, false, nil
	}
	found, err := t.found()
	if t.kube != nil && err != nil {
		t.a.errorf("note: what the control plane found about this is not known: %v", err)
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	told = map[string]bool{}
	for _, k := range keys {
		for _, f := range found {
			if f.Object != k || told[k+f.Message] {
				continue
			}
			where := ""
			if f.Source != "" {
				where = f.Source + ": "
			}
			t.a.errorf("%s: %s%s: %s", f.Severity, where, k, f.Message)
			told[k], told[k+f.Message] = true, true
			refused = refused || f.Code == api.CodeRefused
		}
	}
	return told, refused, nil
}

func prefix(p, s string) string {
	if s == "" {
		return ""
	}
	return p + s
}

// pick keeps the named objects, all when there is no name, ordered by
// namespace and name.
func pick(items []api.Object, names []string) (out []api.Object, missing []string) {
	slices.SortFunc(items, func(x, y api.Object) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	if len(names) == 0 {
		return items, nil
	}
	for _, n := range names {
		found := false
		for _, o := range items {
			if o.Name == n {
				out, found = append(out, o), true
			}
		}
		if !found {
			missing = append(missing, n)
		}
	}
	return out, missing
}

func (a *app) printObjects(all []objectsOf, f getFlags, single bool) error {
	var items []api.Object
	for _, o := range all {
		items = append(items, o.items...)
	}
	switch f.output {
	case "name":
		for _, o := range items {
			fmt.Fprintf(a.Stdout, "%s.%s/%s\n", strings.ToLower(o.Kind), o.Group, o.Name)
		}
		return nil
	case "json", "yaml":
		return a.printManifests(items, f.output, single)
	}
	all = slices.DeleteFunc(all, func(o objectsOf) bool { return len(o.items) == 0 })
	for i, o := range all {
		if i > 0 {
			fmt.Fprintln(a.Stdout)
		}
		if err := a.printTable(o, f, len(all) > 1); err != nil {
			return err
		}
	}
	return nil
}

// printTable prints the objects of one kind; qualified names them with it.
func (a *app) printTable(all objectsOf, f getFlags, qualified bool) error {
	t := table{header: all.kind.Columns()}
	if f.all {
		t.header = append([]string{"NAMESPACE"}, t.header...)
	}
	if f.output == "wide" {
		t.header = append(t.header, "HELD")
	}
	for _, o := range all.items {
		res := config.Decode(o.Manifest, o.Source, o.Namespace)
		if len(res.Objects) != 1 {
			return fmt.Errorf("the control plane sent %s/%s, which this version of lateen cannot read: %w", o.Kind, o.Name, config.Errors(res.Problems))
		}
		obj := res.Objects[0].Clone()
		obj.Source = config.Source{File: o.Source}
		row := obj.Row(a.Now())
		if qualified {
			row[0] = reference(obj.Key)
		}
		if f.all {
			row = append([]string{o.Namespace}, row...)
		}
		if f.output == "wide" {
			row = append(row, o.Held)
		}
		t.add(row...)
	}
	return t.write(a.Stdout)
}

// printManifests prints one object as itself and several as a List, each with
// where it comes from: in YAML as a comment, in JSON not at all.
func (a *app) printManifests(items []api.Object, format string, single bool) error {
	if single && len(items) == 1 {
		if format == "json" {
			return writeJSON(a.Stdout, items[0].Manifest)
		}
		if items[0].Source != "" {
			fmt.Fprintf(a.Stdout, "# Source: %s\n", items[0].Source)
		}
		b, err := yaml.JSONToYAML(items[0].Manifest)
		if err != nil {
			return err
		}
		_, err = a.Stdout.Write(b)
		return err
	}
	manifests := make([]json.RawMessage, 0, len(items))
	for _, o := range items {
		manifests = append(manifests, o.Manifest)
	}
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": manifests}
	if format == "json" {
		return writeJSON(a.Stdout, list)
	}
	for _, o := range items {
		if o.Source != "" {
			fmt.Fprintf(a.Stdout, "# Source of %s: %s\n", o.Name, o.Source)
		}
	}
	return writeYAML(a.Stdout, list)
}

// completeObjects offers kinds first, then names.
func (a *app) completeObjects(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if len(args) == 0 {
		for _, k := range config.Kinds() {
			out = append(out, k.Plural)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	kind, err := kindOf(args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	t, err := a.target()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer t.Close()
	list, err := call(a, func(ctx context.Context) ([]api.Object, error) { return t.list(ctx, kind, a.namespace) })
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	for _, o := range list {
		out = append(out, o.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
