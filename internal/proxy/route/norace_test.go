// SPDX-License-Identifier: Apache-2.0

//go:build !race

package route

const poolMisses = 0
