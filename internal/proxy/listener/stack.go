// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"crypto/tls"
	"errors"
	"runtime/debug"
	"strings"

	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// failureStat is the counter of a failed handshake, by Envoy's classes.
func failureStat(err error) telemetry.ListenerStat {
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &cert):
		return telemetry.ListenerSSLFailVerifyError
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return telemetry.ListenerSSLFailVerifyNoCert
	}
	return telemetry.ListenerSSLConnectionError
}

func stack() string { return string(debug.Stack()) }
