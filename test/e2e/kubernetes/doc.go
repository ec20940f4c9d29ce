// SPDX-License-Identifier: Apache-2.0

// Package kubernetes walks through the documents that Lateen's users start
// with, on a real cluster: every command of a document is run as it stands, run
// with something of ours in the place of something that is not on the machine,
// or named as pending. Its tests need the lab (docs/lab.md) and the build tag
// lab; that the lists of commands are those of the documents is checked without.
package kubernetes
