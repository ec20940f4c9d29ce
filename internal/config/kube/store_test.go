// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"log/slog"
	"testing"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/kube"
	"github.com/lateen-mesh/lateen/internal/config/kube/apitest"
	"github.com/lateen-mesh/lateen/internal/config/storetest"
)

type kubeReport = kube.Report

// defined makes a server that knows every kind of ours.
func defined(t *testing.T) *apitest.Server {
	api := apitest.New(t)
	for _, k := range kube.Defined() {
		api.Define(k.Plural, k.Group, k.Versions...)
	}
	return api
}

func open(t *testing.T, api *apitest.Server) *kube.Store {
	t.Helper()
	s, err := kube.Open(t.Context(), kube.Options{Config: api.Config(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) config.Store {
		s := open(t, defined(t))
		<-s.Synced()
		return s
	})
}
