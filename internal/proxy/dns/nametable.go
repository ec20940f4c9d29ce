// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// NameTableType is the type of the resource that holds a NameTable.
const NameTableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"

// Name is what a control plane says of one host (istio.networking.nds.v1.
// NameTable.NameInfo).
type Name struct {
	IPs       []string `json:"ips,omitempty"`
	Registry  string   `json:"registry,omitempty"` // "Kubernetes" or "External"
	Shortname string   `json:"shortname,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	AltHosts  []string `json:"altHosts,omitempty"`
}

// Fields of NameTable, of an entry of its map, and of NameInfo.
const (
	fieldTable = 1

	fieldKey, fieldValue = 1, 2

	fieldIPs, fieldRegistry, fieldShortname, fieldNamespace, fieldAltHosts = 1, 2, 3, 4, 5
)

var errWire = errors.New("name table: not a NameTable message")

// DecodeNameTable reads a serialized NameTable. Fields it does not know are
// skipped, as protobuf does.
func DecodeNameTable(b []byte) (map[string]Name, error) {
	out := map[string]Name{}
	err := fields(b, func(n protowire.Number, v []byte) error {
		if n != fieldTable {
			return nil
		}
		var host string
		var info Name
		err := fields(v, func(n protowire.Number, v []byte) error {
			switch n {
			case fieldKey:
				host = string(v)
			case fieldValue:
				var err error
				info, err = decodeName(v)
				return err
			}
			return nil
		})
		if err == nil && host == "" {
			err = fmt.Errorf("%w: a host has no name", errWire)
		}
		out[host] = info
		return err
	})
	return out, err
}

func decodeName(b []byte) (Name, error) {
	var out Name
	err := fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case fieldIPs:
			out.IPs = append(out.IPs, string(v))
		case fieldRegistry:
			out.Registry = string(v)
		case fieldShortname:
			out.Shortname = string(v)
		case fieldNamespace:
			out.Namespace = string(v)
		case fieldAltHosts:
			out.AltHosts = append(out.AltHosts, string(v))
		}
		return nil
	})
	return out, err
}

// fields calls f with every length-delimited field of a message.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		n, t, k := protowire.ConsumeTag(b)
		if k < 0 {
			return errWire
		}
		b = b[k:]
		if t != protowire.BytesType {
			if k = protowire.ConsumeFieldValue(n, t, b); k < 0 {
				return errWire
			}
			b = b[k:]
			continue
		}
		v, k := protowire.ConsumeBytes(b)
		if k < 0 {
			return errWire
		}
		if err := f(n, v); err != nil {
			return err
		}
		b = b[k:]
	}
	return nil
}
