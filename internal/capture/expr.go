// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// reg is the one register that rules need: each condition loads and compares.
const reg = 1

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
func network(n uint16) []byte {
	return binary.BigEndian.AppendUint16(nil, n)
}

func compare(not bool, data []byte) expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return &expr.Cmp{Op: op, Register: reg, Data: data}
}

func (f Family) table() nftables.TableFamily {
	if f == IPv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// exprs are the rule as the kernel takes it: one list per nft rule.
func (r Rule) exprs(f Family) [][]expr.Any {
	var match []expr.Any
	for _, m := range r.Match {
		match = append(match, matchExprs(m, f)...)
	}
	rule := func(more ...expr.Any) []expr.Any { return append(match[:len(match):len(match)], more...) }
	load := func(data []byte) expr.Any { return &expr.Immediate{Register: reg, Data: data} }
	switch t := r.Target.(type) {
	case jump:
		return [][]expr.Any{rule(&expr.Verdict{Kind: expr.VerdictJump, Chain: string(t)})}
	case verdict:
		return [][]expr.Any{rule(&expr.Verdict{Kind: map[verdict]expr.VerdictKind{
			ret: expr.VerdictReturn, accept: expr.VerdictAccept, drop: expr.VerdictDrop}[t]})}
	case redirect:
		return [][]expr.Any{rule(load(network(t.port)),
			&expr.Redir{RegisterProtoMin: reg, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED})}
	case setMark:
		return [][]expr.Any{rule(load(native(uint32(t))), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg})}
	case saveMark:
		return [][]expr.Any{rule(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg},
			&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: reg})}
	case restoreMark:
		return [][]expr.Any{rule(&expr.Ct{Key: expr.CtKeyMARK, Register: reg},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg})}
	case tproxy:
		family := byte(f.table())
		return [][]expr.Any{
			rule(load(network(t.port)), &expr.TProxy{Family: family, TableFamily: family, RegPort: reg},
				load(native(t.mark)), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg},
				&expr.Verdict{Kind: expr.VerdictAccept}),
			rule(&expr.Verdict{Kind: expr.VerdictDrop}), // see Rule.nft
		}
	case zone:
		return [][]expr.Any{rule(load(binary.NativeEndian.AppendUint16(nil, uint16(t))),
			&expr.Ct{Key: expr.CtKeyZONE, SourceRegister: true, Register: reg})}
	}
	panic(fmt.Sprintf("no netlink form of %T", r.Target))
}

func matchExprs(m Match, f Family) []expr.Any {
	switch m := m.(type) {
	case matchProto:
		n := byte(unix.IPPROTO_TCP)
		if m == udpOnly {
			n = unix.IPPROTO_UDP
		}
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, compare(false, []byte{n})}
	case matchPorts:
		offset := uint32(0) // RFC 9293 section 3.1, RFC 768: source, then destination port
		if m.dst {
			offset = 2
		}
		out := []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}}
		for _, p := range m.ports {
			out = append(out, compare(m.not, network(p)))
		}
		return out
	case matchAddr:
		return addrExprs(m, f)
	case matchIface:
		key := expr.MetaKeyIIFNAME
		if m.out {
			key = expr.MetaKeyOIFNAME
		}
		name := make([]byte, unix.IFNAMSIZ) // compared with its end, or only as far as it goes
		if prefix, ok := strings.CutSuffix(m.name, "+"); ok {
			name = []byte(prefix)
		} else {
			copy(name, m.name)
		}
		return []expr.Any{&expr.Meta{Key: key, Register: reg}, compare(false, name)}
	case matchOwner:
		// A packet without a socket has no owner and matches neither way, unlike
		// in iptables; the nat hook sees no such TCP packet that opens a connection.
		key := expr.MetaKeySKUID
		if m.group {
			key = expr.MetaKeySKGID
		}
		return []expr.Any{&expr.Meta{Key: key, Register: reg}, compare(m.not, native(m.id))}
	case matchMark:
		var load expr.Any = &expr.Meta{Key: expr.MetaKeyMARK, Register: reg}
		if m.conn {
			load = &expr.Ct{Key: expr.CtKeyMARK, Register: reg}
		}
		return []expr.Any{load, compare(m.not, native(m.value))}
	case matchState:
		return []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: reg},
			&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: native(uint32(m)), Xor: native(0)},
			compare(true, native(0))}
	}
	panic(fmt.Sprintf("no netlink form of %T", m))
}

func addrExprs(m matchAddr, f Family) []expr.Any {
	// Offsets of the addresses: RFC 791 section 3.1, RFC 8200 section 3.
	size, offset := uint32(4), uint32(12)
	if f == IPv6 {
		size, offset = 16, 8
	}
	if m.dst {
		offset += size
	}
	p := m.prefix.Masked()
	if p.Bits() == 0 && !m.not {
		return nil
	}
	out := []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}}
	if !p.IsSingleIP() {
		out = append(out, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: size,
			Mask: net.CIDRMask(p.Bits(), int(size)*8), Xor: make([]byte, size)})
	}
	return append(out, compare(m.not, p.Addr().AsSlice()))
}
