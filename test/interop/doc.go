// SPDX-License-Identifier: Apache-2.0

// Package interop runs other people's clients and test suites, unmodified,
// against Lateen's binaries. It is a module of its own so that what they need
// stays out of the main one.
package interop
