// SPDX-License-Identifier: Apache-2.0

package telemetry

// gaugeMark before a name says that the value goes up and down.
const gaugeMark = '~'

// HTTPStat names one value of HTTPStats (http.<stat_prefix>.*).
type HTTPStat uint8

// The values of an HTTP connection manager, its router and its fault filter.
const (
	HTTPCxTotal HTTPStat = iota
	HTTPCxActive
	HTTPCxHTTP1Total
	HTTPCxHTTP1Active
	HTTPCxHTTP2Total
	HTTPCxHTTP2Active
	HTTPCxSSLTotal
	HTTPCxSSLActive
	HTTPCxDestroy
	HTTPCxDestroyLocal
	HTTPCxDestroyRemote
	HTTPCxDestroyActiveRq
	HTTPCxDestroyLocalActiveRq
	HTTPCxDestroyRemoteActiveRq
	HTTPCxDrainClose
	HTTPCxIdleTimeout
	HTTPCxMaxDurationReached
	HTTPCxMaxRequestsReached
	HTTPCxProtocolError
	HTTPCxDelayedCloseTimeout
	HTTPCxRxBytes
	HTTPCxTxBytes
	HTTPCxUpgradesTotal
	HTTPCxUpgradesActive
	HTTPRqTotal
	HTTPRqActive
	HTTPRqHTTP1Total
	HTTPRqHTTP2Total
	HTTPRqCompleted
	HTTPRq1xx
	HTTPRq2xx
	HTTPRq3xx
	HTTPRq4xx
	HTTPRq5xx
	HTTPRqIdleTimeout
	HTTPRqMaxDurationReached
	HTTPRqTimeout
	HTTPRqHeaderTimeout
	HTTPRqRxReset
	HTTPRqTxReset
	HTTPRqTooLarge
	HTTPRqOverloadClose
	HTTPRqWSOnNonWSRoute
	HTTPRqNonRelativePath
	HTTPRqFailedPathNormalization
	HTTPRqRedirectedWithNormalizedPath
	HTTPRqResponseBeforeRqComplete
	HTTPRsTooLarge
	HTTPNoRoute
	HTTPNoCluster
	HTTPRouterTotal
	HTTPDirectResponse
	HTTPRedirect
	HTTPPassthroughInternalRedirect
	HTTPFaultDelays
	HTTPFaultAborts
	HTTPFaultOverflow
	HTTPFaultActive
	httpStats
)

var httpNames = [httpStats]string{
	"downstream_cx_total", "~downstream_cx_active",
	"downstream_cx_http1_total", "~downstream_cx_http1_active",
	"downstream_cx_http2_total", "~downstream_cx_http2_active",
	"downstream_cx_ssl_total", "~downstream_cx_ssl_active",
	"downstream_cx_destroy", "downstream_cx_destroy_local", "downstream_cx_destroy_remote",
	"downstream_cx_destroy_active_rq", "downstream_cx_destroy_local_active_rq",
	"downstream_cx_destroy_remote_active_rq",
	"downstream_cx_drain_close", "downstream_cx_idle_timeout",
	"downstream_cx_max_duration_reached", "downstream_cx_max_requests_reached",
	"downstream_cx_protocol_error", "downstream_cx_delayed_close_timeout",
	"downstream_cx_rx_bytes_total", "downstream_cx_tx_bytes_total",
	"downstream_cx_upgrades_total", "~downstream_cx_upgrades_active",
	"downstream_rq_total", "~downstream_rq_active",
	"downstream_rq_http1_total", "downstream_rq_http2_total", "downstream_rq_completed",
	"downstream_rq_1xx", "downstream_rq_2xx", "downstream_rq_3xx", "downstream_rq_4xx",
	"downstream_rq_5xx", "downstream_rq_idle_timeout", "downstream_rq_max_duration_reached",
	"downstream_rq_timeout", "downstream_rq_header_timeout", "downstream_rq_rx_reset",
	"downstream_rq_tx_reset", "downstream_rq_too_large", "downstream_rq_overload_close",
	"downstream_rq_ws_on_non_ws_route", "downstream_rq_non_relative_path",
	"downstream_rq_failed_path_normalization", "downstream_rq_redirected_with_normalized_path",
	"downstream_rq_response_before_rq_complete", "rs_too_large", "no_route", "no_cluster",
	"rq_total", "rq_direct_response", "rq_redirect", "passthrough_internal_redirect_total",
	"fault.delays_injected", "fault.aborts_injected", "fault.faults_overflow", "~fault.active_faults",
}

// HTTPTime names one histogram of HTTPStats.
type HTTPTime uint8

// The histograms of an HTTP connection manager.
const (
	HTTPRqTime HTTPTime = iota
	HTTPCxLength
	httpTimes
)

var httpTimeNames = [httpTimes]string{"downstream_rq_time", "downstream_cx_length_ms"}

// ClusterStat names one value of ClusterStats (cluster.<name>.*).
type ClusterStat uint8

// The values of an upstream cluster.
const (
	ClusterCxTotal ClusterStat = iota
	ClusterCxActive
	ClusterCxHTTP1Total
	ClusterCxHTTP2Total
	ClusterCxConnectFail
	ClusterCxConnectTimeout
	ClusterCxConnectAttemptsExceeded
	ClusterCxOverflow
	ClusterCxPoolOverflow
	ClusterCxDestroy
	ClusterCxDestroyLocal
	ClusterCxDestroyRemote
	ClusterCxDestroyWithActiveRq
	ClusterCxDestroyLocalWithActiveRq
	ClusterCxDestroyRemoteWithActiveRq
	ClusterCxCloseNotify
	ClusterCxIdleTimeout
	ClusterCxMaxRequests
	ClusterCxMaxDurationReached
	ClusterCxNoneHealthy
	ClusterCxProtocolError
	ClusterCxRxBytes
	ClusterCxTxBytes
	ClusterRqTotal
	ClusterRqActive
	ClusterRqPendingTotal
	ClusterRqPendingActive
	ClusterRqPendingOverflow
	ClusterRqPendingFailureEject
	ClusterRqCancelled
	ClusterRqMaintenanceMode
	ClusterRqMaxDurationReached
	ClusterRqTimeout
	ClusterRqPerTryTimeout
	ClusterRqPerTryIdleTimeout
	ClusterRqRxReset
	ClusterRqTxReset
	ClusterRqRetry
	ClusterRqRetrySuccess
	ClusterRqRetryOverflow
	ClusterRqRetryLimitExceeded
	ClusterRqRetryBackoffExponential
	ClusterRqRetryBackoffRatelimited
	ClusterRqCompleted
	ClusterRq1xx
	ClusterRq2xx
	ClusterRq3xx
	ClusterRq4xx
	ClusterRq5xx
	ClusterLBHealthyPanic
	ClusterLBRecalculate
	ClusterBindErrors
	ClusterSSLHandshake
	ClusterSSLConnectionError
	ClusterSSLSessionReused
	ClusterSSLFailVerifySAN
	ClusterSSLFailVerifyError
	clusterStats
)

var clusterNames = [clusterStats]string{
	"upstream_cx_total", "~upstream_cx_active", "upstream_cx_http1_total",
	"upstream_cx_http2_total", "upstream_cx_connect_fail", "upstream_cx_connect_timeout",
	"upstream_cx_connect_attempts_exceeded", "upstream_cx_overflow", "upstream_cx_pool_overflow",
	"upstream_cx_destroy", "upstream_cx_destroy_local", "upstream_cx_destroy_remote",
	"upstream_cx_destroy_with_active_rq", "upstream_cx_destroy_local_with_active_rq",
	"upstream_cx_destroy_remote_with_active_rq", "upstream_cx_close_notify",
	"upstream_cx_idle_timeout", "upstream_cx_max_requests", "upstream_cx_max_duration_reached",
	"upstream_cx_none_healthy", "upstream_cx_protocol_error",
	"upstream_cx_rx_bytes_total", "upstream_cx_tx_bytes_total",
	"upstream_rq_total", "~upstream_rq_active", "upstream_rq_pending_total",
	"~upstream_rq_pending_active", "upstream_rq_pending_overflow",
	"upstream_rq_pending_failure_eject", "upstream_rq_cancelled",
	"upstream_rq_maintenance_mode", "upstream_rq_max_duration_reached", "upstream_rq_timeout",
	"upstream_rq_per_try_timeout", "upstream_rq_per_try_idle_timeout", "upstream_rq_rx_reset",
	"upstream_rq_tx_reset", "upstream_rq_retry", "upstream_rq_retry_success",
	"upstream_rq_retry_overflow", "upstream_rq_retry_limit_exceeded",
	"upstream_rq_retry_backoff_exponential", "upstream_rq_retry_backoff_ratelimited",
	"upstream_rq_completed", "upstream_rq_1xx", "upstream_rq_2xx", "upstream_rq_3xx",
	"upstream_rq_4xx", "upstream_rq_5xx", "lb_healthy_panic", "lb_recalculate_zone_structures",
	"bind_errors", "ssl.handshake", "ssl.connection_error", "ssl.session_reused",
	"ssl.fail_verify_san", "ssl.fail_verify_error",
}

// ClusterTime names one histogram of ClusterStats.
type ClusterTime uint8

// The histograms of an upstream cluster.
const (
	ClusterRqTime ClusterTime = iota
	ClusterCxConnect
	ClusterCxLength
	clusterTimes
)

var clusterTimeNames = [clusterTimes]string{
	"upstream_rq_time", "upstream_cx_connect_ms", "upstream_cx_length_ms",
}

// ListenerStat names one value of ListenerStats (listener.<address>.*).
type ListenerStat uint8

// The values of a listener.
const (
	ListenerCxTotal ListenerStat = iota
	ListenerCxActive
	ListenerCxDestroy
	ListenerCxOverflow
	ListenerCxOverloadReject
	ListenerGlobalCxOverflow
	ListenerNoFilterChainMatch
	ListenerTransportSocketTimeout
	ListenerPreCxTimeout
	ListenerPreCxActive
	ListenerSSLHandshake
	ListenerSSLConnectionError
	ListenerSSLSessionReused
	ListenerSSLNoCertificate
	ListenerSSLFailVerifyNoCert
	ListenerSSLFailVerifyError
	ListenerSSLFailVerifySAN
	ListenerSSLFailVerifyCertHash
	listenerStats
)

var listenerNames = [listenerStats]string{
	"downstream_cx_total", "~downstream_cx_active", "downstream_cx_destroy",
	"downstream_cx_overflow", "downstream_cx_overload_reject", "downstream_global_cx_overflow",
	"no_filter_chain_match", "downstream_cx_transport_socket_connect_timeout",
	"downstream_pre_cx_timeout", "~downstream_pre_cx_active", "ssl.handshake",
	"ssl.connection_error", "ssl.session_reused", "ssl.no_certificate",
	"ssl.fail_verify_no_cert", "ssl.fail_verify_error", "ssl.fail_verify_san",
	"ssl.fail_verify_cert_hash",
}

// listenerTimes are the histograms of a listener: the connection's length.
const listenerTimes = 1

var listenerTimeNames = [listenerTimes]string{"downstream_cx_length_ms"}

// TCPStat names one value of TCPStats (tcp.<stat_prefix>.*).
type TCPStat uint8

// The values of a TCP proxy.
const (
	TCPCxTotal TCPStat = iota
	TCPCxNoRoute
	TCPCxRxBytes
	TCPCxTxBytes
	TCPIdleTimeout
	TCPMaxDuration
	TCPUpstreamFlushTotal
	TCPUpstreamFlushActive
	tcpStats
)

var tcpNames = [tcpStats]string{
	"downstream_cx_total", "downstream_cx_no_route", "downstream_cx_rx_bytes_total",
	"downstream_cx_tx_bytes_total", "idle_timeout", "max_downstream_connection_duration",
	"upstream_flush_total", "~upstream_flush_active",
}
