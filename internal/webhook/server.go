// SPDX-License-Identifier: Apache-2.0

// Package webhook answers the API server's admission requests: pods get their
// proxy at /inject, bad configuration is refused at /validate. It reads nothing
// from the cluster itself.
package webhook

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"golang.org/x/net/netutil"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/inject"
)

// Bounds. The API server waits ten seconds for an answer and sends objects of a
// few megabytes at most, an old and a new one.
const (
	maxBody        = 8 << 20
	maxConnections = 256
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	drainTimeout   = 5 * time.Second
)

// The paths, to which Istio's clients may add more (/inject/cluster/C/net/N).
const (
	InjectPath   = "/inject"
	ValidatePath = "/validate"
)

// Options are what a server is made with.
type Options struct {
	// Input returns everything for an injection in a namespace but the pod. It is
	// called for every pod and must be quick.
	Input func(ctx context.Context, namespace string) (inject.Input, error)
	// Validate checks one object in JSON; nil is what `lateen apply` does. Errors
	// among the problems refuse the object, the rest become warnings.
	Validate func(raw []byte, namespace string) []*config.Problem
	// Certificate is asked for at every handshake, so that it can be rotated.
	Certificate func() (*tls.Certificate, error)
	Log         *slog.Logger
	Now         func() time.Time // nil: time.Now
}

// Server serves the webhooks.
type Server struct {
	opts    Options
	mux     *http.ServeMux
	metrics metrics
}

// NewServer returns a server that is not yet listening.
func NewServer(o Options) *Server {
	if o.Validate == nil {
		o.Validate = Validate
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{opts: o, mux: http.NewServeMux()}
	inject, validate := s.review(s.inject, &s.metrics.injectErrors), s.review(s.validate, &s.metrics.validateErrors)
	s.mux.HandleFunc(InjectPath, inject)
	s.mux.HandleFunc(InjectPath+"/", inject)
	s.mux.HandleFunc(ValidatePath, validate)
	s.mux.HandleFunc(ValidatePath+"/", validate)
	return s
}

// ServeHTTP implements http.Handler, without TLS and without bounds on time.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve accepts TLS connections on l until ctx is done, then lets requests end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.opts.Certificate() },
		},
		ErrorLog: slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	})
	err := srv.ServeTLS(netutil.LimitListener(l, maxConnections), "", "")
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// review wraps what answers one admission request in everything around it. A
// request that cannot be read gets an HTTP error, which the API server takes as
// its failurePolicy says.
func (s *Server) review(answer func(context.Context, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse, failed *byStatus) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				s.opts.Log.Error("webhook panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				failed.add(http.StatusInternalServerError)
				http.Error(w, "internal error", http.StatusInternalServerError)
			}
		}()
		review, code, err := readReview(w, r)
		if err != nil {
			failed.add(code)
			http.Error(w, err.Error(), code)
			return
		}
		response := answer(r.Context(), review.Request)
		response.UID = review.Request.UID
		body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: response})
		if err != nil {
			failed.add(http.StatusInternalServerError)
			http.Error(w, "cannot write the answer", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}
}

// readReview reads an AdmissionReview, of v1 or v1beta1: both have the same form,
// and are answered in their own version.
func readReview(w http.ResponseWriter, r *http.Request) (*admissionv1.AdmissionReview, int, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, http.StatusMethodNotAllowed, fmt.Errorf("method %s: use POST", r.Method)
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, http.StatusUnsupportedMediaType, errors.New("invalid Content-Type, want `application/json`")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the body is larger than %d bytes", maxBody)
	case err != nil:
		return nil, http.StatusBadRequest, errors.New("cannot read the body")
	case len(body) == 0:
		return nil, http.StatusBadRequest, errors.New("no body found")
	}
	review := &admissionv1.AdmissionReview{}
	if err := json.Unmarshal(body, review); err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("the body is no AdmissionReview: %v", err)
	}
	switch v := review.APIVersion; v {
	case "admission.k8s.io/v1", "admission.k8s.io/v1beta1":
	default:
		return nil, http.StatusBadRequest, fmt.Errorf("apiVersion %q: want admission.k8s.io/v1 or v1beta1", v)
	}
	if review.Kind != "AdmissionReview" || review.Request == nil {
		return nil, http.StatusBadRequest, errors.New("the body is no AdmissionReview with a request")
	}
	return review, 0, nil
}

func allowed(warnings ...string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true, Warnings: warnings}
}

func denied(code int32, reason metav1.StatusReason, message string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}
