// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var scenarios = []scenario{todoApplication, stepByStep, bookinfoWithGatewayAPI}

func deviation(n int, p float64) float64 { return math.Sqrt(float64(n) * p * (1 - p)) }

// commandLine finds where a command begins in a line of a document: after a
// prompt, or with the name of a program that the documents use.
var commandLine = regexp.MustCompile(`^(?:\$ |root@\S+ \S+ \S+ |)((?:(?:k|kubectl|Kubectl|istioctl|curl|openssl|vi|\$CURL) |[A-Z_]+="?\$\(kubectl ).*)$`)

// commandsOf extracts the command lines of a document.
func commandsOf(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		m := commandLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		c, _, _ := strings.Cut(m[1], " # ") // a comment to the reader
		out = append(out, plain(c))
	}
	return out
}

// plain is a line with single spaces, without the shell's continuation.
func plain(s string) string { return strings.TrimSuffix(strings.Join(strings.Fields(s), " "), ` \`) }

// TestEveryCommandOfADocumentIsListed compares the scenarios with the documents
// they walk through: no command of a document is left out, none is invented.
func TestEveryCommandOfADocumentIsListed(t *testing.T) {
	samples := os.Getenv("LATEEN_ISTIO_SAMPLES")
	if samples == "" {
		t.Skip("the documents are beside Istio's samples: set LATEEN_ISTIO_SAMPLES")
	}
	for _, s := range scenarios {
		t.Run(s.document, func(t *testing.T) {
			files, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(samples)), "seeds", s.document+"_*.txt"))
			if err != nil || len(files) != 1 {
				t.Skipf("document %s is not beside Istio's samples", s.document)
			}
			b, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			text := plain(string(b))
			listed := map[string]int{}
			for _, st := range s.steps {
				for _, c := range st.commands {
					if c.document == "" {
						continue
					}
					listed[plain(c.document)]++
					if !strings.Contains(text, plain(c.document)) {
						t.Errorf("step %q: the document has no %q", st.title, c.document)
					}
				}
			}
			found := map[string]int{}
			for _, c := range commandsOf(string(b)) {
				found[c]++
			}
			for c, n := range found {
				if listed[c] != n {
					t.Errorf("the document has %d times %q, the scenario lists it %d times", n, c, listed[c])
				}
			}
			if len(found) == 0 {
				t.Error("no command was found in the document")
			}
		})
	}
}

// TestScenariosSayWhatTheyDo holds each command to one of: run as it stands,
// replaced with a reason, pending with what it waits for.
func TestScenariosSayWhatTheyDo(t *testing.T) {
	for _, s := range scenarios {
		for _, st := range s.steps {
			for _, c := range st.commands {
				switch {
				case c.pending != "" && (c.run != "" || c.replaced != ""):
					t.Errorf("%s, %s: %q is pending and yet run", s.document, st.title, c.document)
				case c.pending == "" && c.run == "":
					t.Errorf("%s, %s: %q is neither run nor pending", s.document, st.title, c.document)
				case c.document != "" && c.run != "" && c.replaced == "" && plain(c.run) != plain(c.document):
					t.Errorf("%s, %s: %q is run as %q without a reason", s.document, st.title, c.document, c.run)
				case c.document == "" && c.replaced == "" && c.pending == "":
					t.Errorf("%s, %s: %q is in no document; say what it stands for", s.document, st.title, c.run)
				}
			}
		}
	}
}
