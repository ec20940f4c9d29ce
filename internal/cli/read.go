// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lateen-mesh/lateen/internal/config"
)

// maxInput bounds one file of YAML in bytes.
const maxInput = 64 << 20

// readFiles decodes what -f names: files, directories, or - for standard
// input. Problems are printed as they are found; bad counts the errors.
func (a *app) readFiles(names []string, recursive bool) (objects []*config.Object, bad int, err error) {
	for _, name := range names {
		paths := []string{name}
		if name != "-" {
			if paths, err = expand(name, recursive); err != nil {
				return nil, bad, exit(ExitBadInput, "-f %s: %w", name, err)
			}
		}
		for _, p := range paths {
			data, err := a.readInput(p)
			if err != nil {
				return nil, bad, exit(ExitBadInput, "-f %s: %w", name, err)
			}
			file := p
			if p == "-" {
				file = "standard input"
			}
			res := config.Decode(data, file, a.namespace)
			for _, problem := range res.Problems {
				a.errorf("%s: %s", problem.Severity, problem.Error())
				if problem.Severity == config.SeverityError {
					bad++
				}
			}
			objects = append(objects, res.Objects...)
		}
	}
	return objects, bad, nil
}

func (a *app) readInput(path string) ([]byte, error) {
	r := a.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err == nil && len(b) > maxInput {
		err = fmt.Errorf("more than %d bytes", maxInput)
	}
	return b, err
}

// expand lists the YAML and JSON files of a directory in the order of their
// names, as kubectl does; a file is taken whatever its name.
func expand(path string, recursive bool) ([]string, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return []string{path}, nil
	}
	var out []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != path && (!recursive || strings.HasPrefix(d.Name(), ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(p)) {
			out = append(out, p)
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("no .yaml, .yml or .json file in it")
	}
	return out, err
}

// reference names an object as kubectl prints it: kind.group/name.
func reference(k config.Key) string {
	return strings.ToLower(k.Kind.Name) + "." + k.Kind.Group + "/" + k.Name
}
