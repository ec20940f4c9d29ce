// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"strconv"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// grpcNames are the status names as %GRPC_STATUS% prints them.
var grpcNames = [...]struct{ camel, snake string }{
	{"OK", "OK"}, {"Canceled", "CANCELLED"}, {"Unknown", "UNKNOWN"},
	{"InvalidArgument", "INVALID_ARGUMENT"}, {"DeadlineExceeded", "DEADLINE_EXCEEDED"},
	{"NotFound", "NOT_FOUND"}, {"AlreadyExists", "ALREADY_EXISTS"},
	{"PermissionDenied", "PERMISSION_DENIED"}, {"ResourceExhausted", "RESOURCE_EXHAUSTED"},
	{"FailedPrecondition", "FAILED_PRECONDITION"}, {"Aborted", "ABORTED"},
	{"OutOfRange", "OUT_OF_RANGE"}, {"Unimplemented", "UNIMPLEMENTED"},
	{"Internal", "INTERNAL"}, {"Unavailable", "UNAVAILABLE"}, {"DataLoss", "DATA_LOSS"},
	{"Unauthenticated", "UNAUTHENTICATED"},
}

// IsGRPC reports whether a request is gRPC: its content type is
// application/grpc or application/grpc+something (Envoy: isGrpcContentType).
func IsGRPC(req *message.Request) bool {
	v, ok := req.Header.Get(message.ContentType)
	if !ok || !bytes.HasPrefix(v, []byte("application/grpc")) {
		return false
	}
	return len(v) == len("application/grpc") || v[len("application/grpc")] == '+'
}

// GRPCStatus is the exchange's gRPC status: from the trailers, from the headers
// of a trailers-only response, or mapped from the HTTP status.
func (e *Entry) GRPCStatus() (int, bool) {
	if e.Request == nil || !IsGRPC(e.Request) {
		return 0, false
	}
	if e.Response != nil {
		for _, h := range []*message.Header{&e.Response.Trailer, &e.Response.Header} {
			if v, ok := h.Get(message.GRPCStatus); ok {
				if n, ok := smallInt(v); ok {
					return n, true
				}
				return -1, true
			}
		}
	}
	if e.Status == 0 {
		return 0, false
	}
	return HTTPToGRPC(e.Status), true
}

func smallInt(v []byte) (int, bool) {
	if len(v) == 0 || len(v) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

func evalGRPCStatus(o *op, dst []byte, e *Entry) ([]byte, bool) {
	n, ok := e.GRPCStatus()
	if !ok {
		return dst, false
	}
	if n < 0 {
		if o.variant == 2 {
			return append(dst, "-1"...), true
		}
		return append(dst, "InvalidCode"...), true
	}
	if o.variant == 2 || n >= len(grpcNames) {
		return strconv.AppendInt(dst, int64(n), 10), true
	}
	if o.variant == 1 {
		return append(dst, grpcNames[n].snake...), true
	}
	return append(dst, grpcNames[n].camel...), true
}

// HTTPToGRPC maps an HTTP status to a gRPC status (Envoy: httpToGrpcStatus).
func HTTPToGRPC(status int) int {
	switch status {
	case 400:
		return 13 // internal
	case 401:
		return 16 // unauthenticated
	case 403:
		return 7 // permission denied
	case 404:
		return 12 // unimplemented
	case 429, 502, 503, 504:
		return 14 // unavailable
	}
	return 2 // unknown
}

var grpcToHTTP = [...]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}

// GRPCToHTTP maps a gRPC status to an HTTP status (Envoy: grpcToHttpStatus).
func GRPCToHTTP(status int) int {
	if status < 0 || status >= len(grpcToHTTP) {
		return 500
	}
	return grpcToHTTP[status]
}
