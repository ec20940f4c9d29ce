// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// dialPod connects to a port of a pod through the API server, as kubectl
// port-forward does but without a local port that others could use.
func dialPod(ctx context.Context, cfg *rest.Config, client kubernetes.Interface, namespace, pod string, port int) (net.Conn, error) {
	url := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return nil, err
	}
	classic := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, cfg)
	if err != nil {
		return nil, err
	}
	dialer := portforward.NewFallbackDialerForStreaming(tunnel, classic, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	// The dialer takes no context: give up on it, and close what comes too late.
	type dialled struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		done <- dialled{conn, err}
	}()
	select {
	case d := <-done:
		if d.err != nil {
			return nil, fmt.Errorf("port-forward to pod %s/%s: %w", namespace, pod, d.err)
		}
		return newPodConn(d.conn, namespace, pod, port)
	case <-ctx.Done():
		go func() {
			if d := <-done; d.err == nil {
				d.conn.Close()
			}
		}()
		return nil, fmt.Errorf("port-forward to pod %s/%s: %w", namespace, pod, ctx.Err())
	}
}

// podConn is one forwarded connection: a stream of data and one on which the
// kubelet says why it failed.
type podConn struct {
	conn httpstream.Connection
	data httpstream.Stream
	name string
	// failure is what the kubelet said, a string.
	failure atomic.Value
	failed  chan struct{}
}

func newPodConn(conn httpstream.Connection, namespace, pod string, port int) (net.Conn, error) {
	c := &podConn{conn: conn, name: fmt.Sprintf("%s/%s:%d", namespace, pod, port), failed: make(chan struct{})}
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	errs, err := conn.CreateStream(headers)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("port-forward to %s: %w", c.name, err)
	}
	errs.Close() // we only read from it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	if c.data, err = conn.CreateStream(headers); err != nil {
		conn.Close()
		return nil, fmt.Errorf("port-forward to %s: %w", c.name, err)
	}
	go func() {
		defer close(c.failed)
		if b, _ := io.ReadAll(io.LimitReader(errs, 4096)); len(b) > 0 {
			c.failure.Store(string(b))
			c.conn.Close()
		}
	}()
	return c, nil
}

// explain prefers the kubelet's reason to that the stream ended.
func (c *podConn) explain(err error) error {
	if err == nil {
		return nil
	}
	if why, ok := c.failure.Load().(string); ok {
		return fmt.Errorf("port-forward to %s: %s", c.name, why)
	}
	return err
}

func (c *podConn) Read(b []byte) (int, error) {
	n, err := c.data.Read(b)
	if errors.Is(err, io.EOF) && n == 0 {
		<-c.failed // the reason comes on its own stream, which ends with the data
	}
	return n, c.explain(err)
}

func (c *podConn) Write(b []byte) (int, error) {
	n, err := c.data.Write(b)
	return n, c.explain(err)
}

func (c *podConn) Close() error { return c.conn.Close() }

type podAddr string

func (podAddr) Network() string  { return "pod" }
func (a podAddr) String() string { return string(a) }

func (c *podConn) LocalAddr() net.Addr  { return podAddr("lateen") }
func (c *podConn) RemoteAddr() net.Addr { return podAddr(c.name) }

// Deadlines are the callers' contexts', which close the connection.
func (c *podConn) SetDeadline(time.Time) error      { return nil }
func (c *podConn) SetReadDeadline(time.Time) error  { return nil }
func (c *podConn) SetWriteDeadline(time.Time) error { return nil }

// clientConfigAs is the impersonation that the flags ask for.
func clientConfigAs(f kubeFlags) clientcmdapi.AuthInfo {
	return clientcmdapi.AuthInfo{Impersonate: f.as, ImpersonateGroups: f.asGroups}
}
