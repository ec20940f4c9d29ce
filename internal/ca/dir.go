// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lateen-mesh/lateen/internal/identity"
)

// The files of an authority, named as Istio's cacerts secret names them.
const (
	certFile  = "ca-cert.pem"
	keyFile   = "ca-key.pem"
	chainFile = "cert-chain.pem"
	RootFile  = "root-cert.pem" // what proxies are given to trust
	tokenFile = "token-key.pem" // ours: signs the tokens of a local mesh
)

// OpenDir opens the authority kept in dir and its token key, and makes both
// when dir does not exist yet or is empty. Files are 0600 in a directory 0700.
// When several processes make it at once, one wins and all use it. A directory
// with only a part of the files is an error: a new root would cut off every
// workload that trusts the old one.
func OpenDir(dir string, o Options) (*Authority, *Tokens, error) {
	o = o.withDefaults()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("authority: %w", err)
	}
	if len(entries) == 0 {
		if err := create(dir, o); err != nil {
			return nil, nil, fmt.Errorf("authority: make %s: %w", dir, err)
		}
	}
	a, err := load(dir, o)
	if err != nil {
		return nil, nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	t, err := loadTokens(dir, o)
	if err != nil {
		return nil, nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	return a, t, nil
}

// create writes a new authority beside dir and renames it into place, so that
// nobody ever sees half of one.
func create(dir string, o Options) error {
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-") // 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	rootKey, err := identity.NewKey()
	if err != nil {
		return err
	}
	root, err := newRoot(rootKey, o)
	if err != nil {
		return err
	}
	rootPEM := encode(root.Raw)
	if err := writeKey(filepath.Join(tmp, keyFile), rootKey); err != nil {
		return err
	}
	if err := createKey(filepath.Join(tmp, tokenFile)); err != nil {
		return err
	}
	for _, name := range []string{certFile, chainFile, RootFile} {
		if err := writeFile(filepath.Join(tmp, name), rootPEM); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, dir); err != nil {
		// Somebody else was first when the directory is there and full.
		if entries, rerr := os.ReadDir(dir); rerr == nil && len(entries) > 0 {
			return nil
		}
		return err
	}
	return nil
}

// createKey writes a new key to a file that must not exist.
func createKey(name string) error {
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	return writeKey(name, key)
}

func writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// writeFile writes a file that must not exist, readable by its owner alone.
func writeFile(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func load(dir string, o Options) (*Authority, error) {
	key, err := readKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	certs, err := readCertificates(filepath.Join(dir, certFile))
	if err != nil {
		return nil, err
	}
	root, err := readCertificates(filepath.Join(dir, RootFile))
	if err != nil {
		return nil, err
	}
	chain, err := readCertificates(filepath.Join(dir, chainFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	full := certs[:1]
	for _, c := range chain {
		if !c.Equal(certs[0]) {
			full = append(full, c)
		}
	}
	return newAuthority(key, full, root, o)
}

func readKey(name string) (crypto.Signer, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %o lets others read the key: run chmod 600", filepath.Base(name), info.Mode().Perm())
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parseKey(filepath.Base(name), b)
}

func readCertificates(name string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parseCertificates(filepath.Base(name), b)
}
