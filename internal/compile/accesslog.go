// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"fmt"
	"sort"
)

// jsonFields reads MeshConfig.accessLogFormat in JSON encoding: an object whose
// values are format strings. Anything else gives nil, which is Istio's default set.
func jsonFields(format string) [][2]string {
	if format == "" {
		return nil
	}
	m := map[string]any{}
	if err := json.Unmarshal([]byte(format), &m); err != nil {
		return nil
	}
	out := make([][2]string, 0, len(m))
	for k, v := range m {
		out = append(out, [2]string{k, fmt.Sprint(v)})
	}
	sort.Slice(out, func(i, j int) bool { return out[i][0] < out[j][0] })
	return out
}
