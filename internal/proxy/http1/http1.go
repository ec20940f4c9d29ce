// SPDX-License-Identifier: Apache-2.0

// Package http1 is the HTTP/1.1 codec of both sides: message.ServerStream and
// message.ClientStream over a connection.
//
// It rejects whatever two implementations could read differently (RFC 9112,
// RFC 9110; the record of such differences is the table in smuggling_test.go)
// and never forwards bytes it did not parse.
package http1

import (
	"strconv"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// reasons are the status lines' phrases (RFC 9110 section 15).
var reasons = map[int]string{
	100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
	200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
	205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
	300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
	305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
	400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
	409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Payload Too Large",
	414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
	421: "Misdirected Request", 422: "Unprocessable Entity", 423: "Locked", 424: "Failed Dependency",
	426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
	431: "Request Header Fields Too Large",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
	504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates",
	507: "Insufficient Storage", 508: "Loop Detected", 510: "Not Extended", 511: "Network Authentication Required",
}

// statusLines holds the whole first line of every status.
var statusLines = func() (t [600]string) {
	for s := 100; s < 600; s++ {
		phrase := reasons[s]
		if phrase == "" {
			phrase = "Unknown"
		}
		t[s] = "HTTP/1.1 " + strconv.Itoa(s) + " " + phrase + "\r\n"
	}
	return t
}()

// bodyless says that a response of this status never has a body, whatever its
// fields say (RFC 9112 section 6.3).
func bodyless(status int) bool { return status < 200 || status == 204 || status == 304 }

var (
	_ message.ServerStream = (*ServerConn)(nil)
	_ message.ClientStream = (*ClientConn)(nil)
)
