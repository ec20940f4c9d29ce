// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// Options say how rules are written.
type Options struct {
	Log *slog.Logger // nil: no log
	// Out takes the rules as text, as istio-init prints them; nil: nowhere.
	Out io.Writer
	// Iptables names the commands to use instead of nftables: "legacy", "nft" or
	// "default" for those on the path; "" takes nftables where the kernel has it.
	Iptables string
	// NFTOnly never falls back to iptables.
	NFTOnly bool
	// Force writes the rules although they are there already.
	Force bool
}

// backend writes rules of one family.
type backend interface {
	name() string
	// holds says where the kernel differs from the rules, "" for nowhere.
	holds(RuleSet) (difference string, err error)
	write(RuleSet) error
	clean(RuleSet) error
}

// Result is what Apply did.
type Result struct {
	Backend string // "nftables" or "iptables"
	Changed bool   // false: everything was there
}

// PermissionError says that the process may not program its network namespace.
type PermissionError struct{ Err error }

func (e *PermissionError) Error() string {
	return "program the network namespace: " + e.Err.Error() +
		": the container needs the capabilities NET_ADMIN and NET_RAW and, for iptables, user 0" +
		" (securityContext.capabilities.add), or a CNI plugin that does this for the pod"
}

func (e *PermissionError) Unwrap() error { return e.Err }

func explain(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return &PermissionError{err}
	}
	return err
}

func families(c *Config) []Family {
	if c.EnableIPv6 {
		return []Family{IPv4, IPv6}
	}
	return []Family{IPv4}
}

func (o *Options) fill() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
}

// Apply makes the network namespace of the calling thread capture what the
// configuration says, and reads back what it wrote. Rules that are there
// already are left alone; ours that differ are replaced; others are not touched.
func Apply(ctx context.Context, c *Config, o Options) (Result, error) {
	o.fill()
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	if c.RedirectDNS && !c.redirectsDNS() {
		o.Log.Warn("DNS is not captured: resolv.conf names no server and --capture-all-dns is not set")
	}
	b, err := choose(ctx, c, &o)
	if err != nil {
		return Result{}, explain(err)
	}
	res, err := apply(b, c, &o)
	if err != nil && b.name() == "nftables" && missingNFT(err) && !o.NFTOnly {
		fallback := &iptablesBackend{ctx: ctx}
		if fallback.available(families(c)) == nil {
			o.Log.Warn("nftables cannot take the rules, using iptables", "error", err)
			res, err = apply(fallback, c, &o)
		}
	}
	if err != nil {
		return res, explain(err)
	}
	if err := addRoutes(c, families(c)); err != nil {
		return res, explain(err)
	}
	return res, nil
}

// choose finds what can write rules here.
func choose(ctx context.Context, c *Config, o *Options) (backend, error) {
	if o.Iptables != "" {
		b := &iptablesBackend{ctx: ctx}
		if o.Iptables != "default" {
			b.variant = o.Iptables
		}
		return b, b.available(families(c))
	}
	n, err := newNFT()
	if err == nil {
		_, err = n.conn.ListTablesOfFamily(IPv4.table())
	}
	if err == nil {
		return n, nil
	}
	if o.NFTOnly || !missingNFT(err) {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	b := &iptablesBackend{ctx: ctx}
	if missing := b.available(families(c)); missing != nil {
		return nil, fmt.Errorf("this kernel has no nftables (%w) and iptables is not installed (%w)", err, missing)
	}
	return b, nil
}

func apply(b backend, c *Config, o *Options) (Result, error) {
	res := Result{Backend: b.name()}
	for _, f := range families(c) {
		s := Rules(c, f)
		difference, err := b.holds(s)
		if err != nil {
			return res, err
		}
		there := difference == "" && !o.Force
		if there {
			o.Log.Info("the following rules are in place already", "backend", b.name(), "family", f.nft())
		} else {
			o.Log.Info("writing the following rules", "backend", b.name(), "family", f.nft())
		}
		if _, err := io.WriteString(o.Out, s.Restore()); err != nil {
			return res, fmt.Errorf("print rules: %w", err)
		}
		if there {
			continue
		}
		if err := b.write(s); err != nil {
			return res, err
		}
		res.Changed = true
		if difference, err = b.holds(s); err != nil {
			return res, fmt.Errorf("read rules back: %w", err)
		} else if difference != "" {
			return res, fmt.Errorf("the rules that were written are not those in the kernel: %s", difference)
		}
		o.Log.Info("rules written and verified", "backend", b.name(), "family", f.nft())
	}
	return res, nil
}

// Clean removes what Apply made for this configuration, by both backends where
// both are there.
func Clean(ctx context.Context, c *Config, o Options) error {
	o.fill()
	if err := c.Validate(); err != nil {
		return err
	}
	var backends []backend
	var problem error
	if n, err := newNFT(); err != nil {
		problem = err
	} else if _, err := n.conn.ListTablesOfFamily(IPv4.table()); err != nil {
		problem = err
	} else {
		backends = append(backends, n)
	}
	ipt := &iptablesBackend{ctx: ctx}
	if o.Iptables == "legacy" || o.Iptables == "nft" {
		ipt.variant = o.Iptables
	}
	if !o.NFTOnly && ipt.available([]Family{IPv4, IPv6}) == nil {
		backends = append(backends, ipt)
	}
	if len(backends) == 0 {
		return explain(fmt.Errorf("open nftables: %w", problem))
	}
	both := []Family{IPv4, IPv6}
	for _, b := range backends {
		for _, f := range both {
			if err := b.clean(Rules(c, f)); err != nil && (f == IPv4 || !missingNFT(err)) {
				return explain(err)
			}
		}
		o.Log.Info("rules removed", "backend", b.name())
	}
	return explain(removeRoutes(c, both))
}

// Print writes the rules in both forms and changes nothing.
func Print(w io.Writer, c *Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	for _, f := range families(c) {
		s := Rules(c, f)
		name := "iptables-restore"
		if f == IPv6 {
			name = "ip6tables-restore"
		}
		if _, err := fmt.Fprintf(w, "# %s --noflush\n%s# nft -f -\n%s", name, s.Restore(), s.NFT()); err != nil {
			return err
		}
	}
	return nil
}

// InNamespace runs f in the network namespace that a path names, as in
// /var/run/netns/NAME. The calling thread must be locked and is left there.
func InNamespace(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--network-namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return explain(fmt.Errorf("--network-namespace: enter %s: %w", path, err))
	}
	return f()
}
