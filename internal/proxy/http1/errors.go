// SPDX-License-Identifier: Apache-2.0

package http1

import "github.com/lateen-mesh/lateen/internal/proxy/message"

// What the parser rejects, with the status a server answers and Envoy's
// response-code detail (source/common/http/http1/codec_impl.cc). The values are
// shared: nobody changes them.
func bad(status int, detail string) *message.StreamError {
	return &message.StreamError{Reason: message.ProtocolError, Status: status, Detail: detail}
}

var (
	errCodec          = bad(400, "http1.codec_error")
	errInvalidChars   = bad(400, "http1.invalid_characters")
	errInvalidURL     = bad(400, "http1.invalid_url")
	errBothLengths    = bad(400, "http1.content_length_and_chunked_not_allowed")
	errTransferCoding = bad(400, "http1.invalid_transfer_encoding")
	errLength         = bad(400, "http1.content_length_not_allowed")
	errConnectTE      = bad(400, "http1.transfer_encoding_not_allowed")
	errConnection     = bad(400, "http1.connection_header_rejected")
	errTooMany        = bad(431, "http1.too_many_headers")
	errTooLarge       = bad(431, "http1.headers_too_large")
	errNoHost         = bad(400, "missing_host_header")
	errUnasked        = bad(502, "http1.unsolicited_response")
	errUpgrade        = bad(502, "http1.upgrade_not_offered")
	errInformational  = bad(502, "http1.too_many_informational_responses")
	errBadOutput      = bad(500, "http1.invalid_output")

	errAborted   = &message.StreamError{Reason: message.LocalReset}
	errTruncated = &message.StreamError{Reason: message.ConnectionTermination}
	errStale     = &message.StreamError{Reason: message.ConnectionTermination, Unsent: true}
)
