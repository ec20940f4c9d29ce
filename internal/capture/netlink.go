// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socketBuffer holds a whole transaction and its acknowledgements, in bytes: a
// rule takes about 500.
const socketBuffer = 8 << 20

// nftBackend programs nftables by netlink.
type nftBackend struct{ conn *nftables.Conn }

func newNFT() (*nftBackend, error) {
	c, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Without the right to it the default has to do.
		_ = c.SetWriteBuffer(socketBuffer)
		_ = c.SetReadBuffer(socketBuffer)
		return nil
	}))
	if err != nil {
		return nil, err
	}
	return &nftBackend{c}, nil
}

func (*nftBackend) name() string { return "nftables" }

// holds says whether the kernel has exactly these rules in our tables, and if
// not, where it differs.
func (n *nftBackend) holds(s RuleSet) (difference string, err error) {
	tablesHeld, err := n.conn.ListTablesOfFamily(s.Family.table())
	if err != nil {
		return "", fmt.Errorf("list tables: %w", err)
	}
	all, err := n.conn.ListChainsOfTableFamily(s.Family.table())
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	for _, t := range tables {
		name := s.Family.nft() + " " + nftTable(t)
		want := s.chains(t)
		have := slices.ContainsFunc(tablesHeld, func(h *nftables.Table) bool { return h.Name == nftTable(t) })
		if have != (len(want) > 0) {
			return fmt.Sprintf("table %s: present %v, wanted %v", name, have, len(want) > 0), nil
		}
		held := map[string]*nftables.Chain{}
		for _, c := range all {
			if c.Table.Name == nftTable(t) {
				held[c.Name] = c
			}
		}
		if len(held) != len(chainNames(want)) {
			return fmt.Sprintf("table %s has %d chains instead of %d", name, len(held), len(chainNames(want))), nil
		}
		for _, c := range chainNames(want) {
			if d := differs(held[c], t, c); d != "" {
				return fmt.Sprintf("table %s chain %s: %s", name, c, d), nil
			}
		}
		for _, c := range want {
			got, err := rawRules(s.Family, nftTable(t), c.name)
			if err != nil {
				return "", fmt.Errorf("list rules of table %s chain %s: %w", name, c.name, err)
			}
			if d := compareRules(s.Family, c, got); d != "" {
				return fmt.Sprintf("table %s chain %s: %s", name, c.name, d), nil
			}
		}
	}
	return "", nil
}

// chainNames are the chains that have rules and those that are jumped to.
func chainNames(cs []chainRules) []string {
	var out []string
	for _, c := range cs {
		out = append(out, c.name)
	}
	for _, c := range cs {
		for _, r := range c.rules {
			if j, ok := r.Target.(jump); ok && !slices.Contains(out, string(j)) {
				out = append(out, string(j))
			}
		}
	}
	return out
}

func differs(c *nftables.Chain, t Table, name string) string {
	switch {
	case c == nil:
		return "is missing"
	case !isHook(name):
		if c.Hooknum != nil {
			return "hangs on a hook"
		}
		return ""
	case c.Hooknum == nil || c.Priority == nil:
		return "hangs on no hook"
	}
	want := baseChain(nil, t, name)
	if *c.Hooknum != *want.Hooknum || *c.Priority != *want.Priority || c.Type != want.Type {
		return fmt.Sprintf("hangs on hook %d at %d as %s", *c.Hooknum, *c.Priority, c.Type)
	}
	return ""
}

func baseChain(table *nftables.Table, t Table, name string) *nftables.Chain {
	h := hookOf(t, name)
	point := nftables.ChainHookPrerouting
	if h.point == "output" {
		point = nftables.ChainHookOutput
	}
	policy := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Table: table, Name: name, Type: nftables.ChainType(h.kind), Hooknum: point,
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(h.priority)), Policy: &policy,
	}
}

// write replaces our tables of the family by these rules, all at once.
func (n *nftBackend) write(s RuleSet) error {
	n.drop(s.Family)
	for _, t := range tables {
		chains := s.chains(t)
		if len(chains) == 0 {
			continue
		}
		table := n.conn.AddTable(&nftables.Table{Family: s.Family.table(), Name: nftTable(t)})
		made := map[string]*nftables.Chain{}
		for _, name := range chainNames(chains) {
			c := &nftables.Chain{Table: table, Name: name}
			if isHook(name) {
				c = baseChain(table, t, name)
			}
			made[name] = n.conn.AddChain(c)
		}
		for _, c := range chains {
			for _, r := range c.rules {
				for _, e := range r.exprs(s.Family) {
					n.conn.AddRule(&nftables.Rule{Table: table, Chain: made[c.name], Exprs: e})
				}
			}
		}
	}
	if err := n.conn.Flush(); err != nil {
		return fmt.Errorf("write nftables rules: %w", err)
	}
	return nil
}

// drop queues the removal of our tables. Adding one first makes the removal of
// one that is not there no error.
func (n *nftBackend) drop(f Family) {
	for _, t := range tables {
		table := &nftables.Table{Family: f.table(), Name: nftTable(t)}
		n.conn.AddTable(table)
		n.conn.DelTable(table)
	}
}

func (n *nftBackend) clean(s RuleSet) error {
	n.drop(s.Family)
	if err := n.conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables tables: %w", err)
	}
	return nil
}

// missingNFT says whether an error means that the kernel has no nftables, or
// not what these rules need.
func missingNFT(err error) bool {
	for _, e := range []error{unix.EINVAL, unix.EOPNOTSUPP, unix.ENOENT, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// rawExpr is an expression of a rule as the kernel lists it.
type rawExpr struct {
	name string
	data []byte // nested attributes
}

// rawRules lists the rules of a chain without interpreting them, so that they
// can be compared byte by byte.
func rawRules(f Family, table, chain string) ([][]rawExpr, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(table), 0)},
		{Type: unix.NFTA_RULE_CHAIN, Data: append([]byte(chain), 0)},
	})
	if err != nil {
		return nil, err
	}
	// struct nfgenmsg: family, version 0, resource id 0.
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{byte(f.table()), 0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, err
	}
	var out [][]rawExpr
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		r, err := decodeRule(m.Data[4:])
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// attributes are nested netlink attributes by type, without their flags.
func attributes(b []byte) ([]netlink.Attribute, error) {
	out, err := netlink.UnmarshalAttributes(b)
	for i := range out {
		out[i].Type &^= netlink.Nested | netlink.NetByteOrder
	}
	return out, err
}

func decodeRule(b []byte) ([]rawExpr, error) {
	top, err := attributes(b)
	if err != nil {
		return nil, err
	}
	var out []rawExpr
	for _, a := range top {
		if a.Type != unix.NFTA_RULE_EXPRESSIONS {
			continue
		}
		list, err := attributes(a.Data)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			x, err := decodeExpr(e.Data)
			if err != nil {
				return nil, err
			}
			out = append(out, x)
		}
	}
	return out, nil
}

func decodeExpr(b []byte) (x rawExpr, err error) {
	parts, err := attributes(b)
	for _, p := range parts {
		switch p.Type {
		case unix.NFTA_EXPR_NAME:
			x.name = strings.TrimRight(string(p.Data), "\x00")
		case unix.NFTA_EXPR_DATA:
			x.data = p.Data
		}
	}
	return x, err
}

// compareRules says where a chain in the kernel differs from what it should be.
func compareRules(f Family, c chainRules, got [][]rawExpr) string {
	var want [][]expr.Any
	var text []string
	for _, r := range c.rules {
		want = append(want, r.exprs(f)...)
		text = append(text, r.nft(f)...)
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d rules instead of %d", len(got), len(want))
	}
	for i := range want {
		if len(want[i]) != len(got[i]) {
			return fmt.Sprintf("rule %d is not %q", i+1, text[i])
		}
		for j, e := range want[i] {
			b, err := expr.Marshal(byte(f.table()), e)
			if err != nil {
				return err.Error()
			}
			x, err := decodeExpr(b)
			if err != nil {
				return err.Error()
			}
			if x.name != got[i][j].name || !within(x.data, got[i][j].data, 0) {
				return fmt.Sprintf("rule %d is not %q: %s differs", i+1, text[i], x.name)
			}
		}
	}
	return ""
}

// within says whether every attribute of want is in got with the same content.
// The kernel adds defaults of its own when it lists a rule.
func within(want, got []byte, depth int) bool {
	if bytes.Equal(want, got) {
		return true
	}
	if depth > 4 { // deeper than any expression nests
		return false
	}
	w, err := attributes(want)
	if err != nil || len(w) == 0 {
		return false
	}
	g, err := attributes(got)
	if err != nil {
		return false
	}
	for _, a := range w {
		i := slices.IndexFunc(g, func(b netlink.Attribute) bool { return b.Type == a.Type })
		if i < 0 || !within(a.Data, g[i].Data, depth+1) {
			return false
		}
	}
	return true
}
