// SPDX-License-Identifier: Apache-2.0

package kubernetes

import "testing"

// TestChecks holds the checks of the scenarios to outputs they must take and
// outputs they must not: a check that takes everything shows nothing.
func TestChecks(t *testing.T) {
	vars := map[string]string{"POD": "web-1"}
	for _, c := range []struct {
		name    string
		command command
		good    output
		bad     output
	}{
		{"exit code", command{exit: 56}, output{code: 56}, output{code: 0}},
		{"contains", command{check: contains("id=$POD")}, output{stderr: "id=web-1", vars: vars}, output{stdout: "id=web-2", vars: vars}},
		{"lacks", command{check: lacks("v0.2")}, output{stdout: "v0.1"}, output{stdout: "v0.2"}},
		{"matches", command{check: matches(`^\d+$`)}, output{stdout: "x\n31"}, output{stdout: "31x"}},
		{"pods", command{check: pods("2/2", "web")}, output{stdout: "NAME READY STATUS\nweb-1 2/2 Running"}, output{stdout: "web-1 1/2 Running"}},
		{"pods missing", command{check: pods("2/2", "web", "ui")}, output{stdout: "web-1 2/2 Running\nui-1 2/2 Running"}, output{stdout: "web-1 2/2 Running"}},
		{"count", command{check: count("a", 2)}, output{stdout: "a\na\nb"}, output{stdout: "a\na\na"}},
		{"share", command{check: share("a", 4, 50)}, output{stdout: "a\na\nb\nb"}, output{stdout: "a\na\nb"}},
		{"all", command{check: all(contains("a"), lacks("b"))}, output{stdout: "a"}, output{stdout: "ab"}},
		{"empty", command{check: empty}, output{stdout: " \n"}, output{stdout: "x"}},
	} {
		if err := judge(c.command, c.good); err != nil {
			t.Errorf("%s: refuses what is right: %v", c.name, err)
		}
		if judge(c.command, c.bad) == nil {
			t.Errorf("%s: takes what is wrong", c.name)
		}
	}
}
