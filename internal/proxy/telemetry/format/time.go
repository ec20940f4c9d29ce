// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"strconv"
	"time"
)

// timePart is one piece of a START_TIME format.
type timePart struct {
	literal string
	layout  string // a layout of package time
	epoch   byte   // 's' for Unix seconds
	digits  int    // digits of the fraction of a second
}

// envoyTime is START_TIME's default: ISO 8601 in UTC with milliseconds.
const envoyTime = "2006-01-02T15:04:05.000Z"

// strftime maps the conversions that are one layout.
var strftime = map[byte]string{
	'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03",
	'M': "04", 'S': "05", 'p': "PM", 'z': "-0700", 'Z': "MST", 'b': "Jan", 'h': "Jan",
	'B': "January", 'a': "Mon", 'A': "Monday", 'T': "15:04:05", 'F': "2006-01-02",
	'D': "01/02/06", 'R': "15:04", 'j': "002",
}

// parseTime compiles a strftime format: the conversions above, %s (Unix
// seconds), %1f..%9f and %f (fraction), %E1S..%E9S (seconds with fraction),
// %Ez (offset with a colon), %n, %t and %%.
func parseTime(s string) ([]timePart, error) {
	var parts []timePart
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			start := i
			for i+1 < len(s) && s[i+1] != '%' {
				i++
			}
			parts = append(parts, timePart{literal: s[start : i+1]})
			continue
		}
		i++
		if i == len(s) {
			return nil, fmt.Errorf("time format %q ends in %%", s)
		}
		part, used, err := conversion(s[i:])
		if err != nil {
			return nil, fmt.Errorf("time format %q: %w", s, err)
		}
		parts = append(parts, part)
		i += used - 1
	}
	return parts, nil
}

func conversion(s string) (timePart, int, error) {
	c := s[0]
	if l, ok := strftime[c]; ok {
		return timePart{layout: l}, 1, nil
	}
	switch {
	case c == '%':
		return timePart{literal: "%"}, 1, nil
	case c == 'n':
		return timePart{literal: " "}, 1, nil // a line break has no place in a log line
	case c == 't':
		return timePart{literal: "\t"}, 1, nil
	case c == 's':
		return timePart{epoch: 's'}, 1, nil
	case c == 'f':
		return timePart{digits: 9}, 1, nil
	case c >= '1' && c <= '9' && len(s) > 1 && s[1] == 'f':
		return timePart{digits: int(c - '0')}, 2, nil
	case c == 'E' && len(s) > 2 && s[1] >= '1' && s[1] <= '9' && s[2] == 'S':
		return timePart{layout: "05." + "000000000"[:s[1]-'0']}, 3, nil
	case c == 'E' && len(s) > 1 && s[1] == 'z':
		return timePart{layout: "-07:00"}, 2, nil
	}
	return timePart{}, 0, fmt.Errorf("conversion %%%c is not supported", c)
}

func evalStartTime(o *op, dst []byte, e *Entry) ([]byte, bool) {
	if e.Start.IsZero() {
		return dst, false
	}
	t := e.Start.UTC()
	if o.variant == 1 {
		t = e.Start.Local()
	}
	if len(o.layout) == 0 {
		if o.variant == 1 {
			return t.AppendFormat(dst, "2006-01-02T15:04:05.000Z07:00"), true
		}
		return t.AppendFormat(dst, envoyTime), true
	}
	for i := range o.layout {
		p := &o.layout[i]
		switch {
		case p.literal != "":
			dst = append(dst, p.literal...)
		case p.layout != "":
			dst = t.AppendFormat(dst, p.layout)
		case p.epoch != 0:
			dst = strconv.AppendInt(dst, t.Unix(), 10)
		default:
			dst = appendFraction(dst, t, p.digits)
		}
	}
	return dst, true
}

func appendFraction(dst []byte, t time.Time, digits int) []byte {
	n := t.Nanosecond()
	div := 100_000_000
	for range digits {
		dst = append(dst, byte('0'+n/div%10))
		div /= 10
	}
	return dst
}
