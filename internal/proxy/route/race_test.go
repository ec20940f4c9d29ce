// SPDX-License-Identifier: Apache-2.0

//go:build race

package route

// poolMisses is how often per run a sync.Pool comes up empty: with the race
// detector it forgets at random what it was given.
const poolMisses = 4
