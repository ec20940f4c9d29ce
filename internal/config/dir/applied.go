// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
)

const (
	appliedDir = "applied"
	tombSuffix = ".deleted"
)

// fileName returns <plural>.<namespace>.<name>, shortened if a file system
// would not take it. What an applied file holds is said by its content.
func fileName(key config.Key) string {
	name := key.Kind.Plural + "." + key.Namespace + "." + key.Name
	const limit = 200
	if len(name) > limit {
		sum := sha256.Sum256([]byte(name))
		name = name[:limit] + "-" + hex.EncodeToString(sum[:8])
	}
	return name
}

func (s *Store) appliedPath(key config.Key) string {
	return filepath.Join(s.dir, appliedDir, fileName(key)+".yaml")
}

func (s *Store) tombPath(key config.Key) string {
	return filepath.Join(s.dir, appliedDir, fileName(key)+tombSuffix)
}

// tombstone says that an object of a user's file was deleted.
type tombstone struct {
	Kind            string `json:"kind"` // plural.group
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion"` // of the object that it hides
}

func entomb(o *config.Object) ([]byte, error) {
	text, err := yaml.Marshal(tombstone{o.Kind.Plural + "." + o.Kind.Group, o.Namespace, o.Name, o.ResourceVersion})
	if err != nil {
		return nil, err
	}
	return append([]byte("# This object of a user's file was deleted with `lateen delete`.\n"), text...), nil
}

func readTombstone(data []byte) (config.Key, string, error) {
	var t tombstone
	if err := yaml.UnmarshalStrict(data, &t); err != nil {
		return config.Key{}, "", fmt.Errorf("malformed tombstone: %w", err)
	}
	kind, _ := config.FindKind(t.Kind)
	if kind == nil || t.Namespace == "" && !kind.ClusterScoped || t.Name == "" {
		return config.Key{}, "", fmt.Errorf("malformed tombstone: no object %s/%s/%s", t.Kind, t.Namespace, t.Name)
	}
	return config.Key{Kind: kind, Namespace: t.Namespace, Name: t.Name}, t.ResourceVersion, nil
}

// writeAtomically replaces the file: whoever reads it, even after a crash,
// sees the old or the new content, never a part.
func writeAtomically(path string, data []byte) (err error) {
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(parent, unfinished)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(parent)
}

// The name starts with a dot, so that no scan takes it for configuration.
const unfinished = ".writing-*"

// removeUnfinished removes what a crash left of writeAtomically.
func removeUnfinished(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, unfinished)) // the pattern is well-formed
	for _, path := range left {
		_ = os.Remove(path) // it has no effect if it stays
	}
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// isConfigFile reports whether a file of that name is read.
func isConfigFile(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}
