// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
)

var separators = strings.NewReplacer("_", "", "-", "")

// nearest returns the candidate a writer of word most likely meant, or empty.
// Case, dashes and underscores cost nothing; otherwise a third of the letters may differ.
func nearest(word string, candidates []string) string {
	if len(word) > 128 {
		return ""
	}
	fold := func(s string) string { return separators.Replace(strings.ToLower(s)) }
	w := fold(word)
	best, bestCost := "", 1+max(1, len(w)/3)
	sorted := slices.Sorted(slices.Values(candidates))
	for _, c := range sorted {
		if cost := editDistance(w, fold(c)); cost < bestCost {
			best, bestCost = c, cost
		}
	}
	return best
}

// didYouMean returns the sentence that goes into Problem.Fix.
func didYouMean(word string, candidates []string) string {
	if n := nearest(word, candidates); n != "" {
		return `did you mean "` + n + `"?`
	}
	if len(candidates) > 0 && len(candidates) <= 12 {
		return "want one of " + strings.Join(slices.Sorted(slices.Values(candidates)), ", ")
	}
	return ""
}

// DidYouMean returns a sentence naming the candidate that the writer of word
// most likely meant, or the few candidates there are, or nothing.
func DidYouMean(word string, candidates []string) string { return didYouMean(word, candidates) }

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours (optimal string alignment) in bytes.
func editDistance(a, b string) int {
	if a == b {
		return 0
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
