// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/lateen-mesh/lateen/samples/servers"
)

// load sends requests until ctx, the duration, or standard input ends.
func load(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("servers load", flag.ContinueOnError)
	f.SetOutput(stderr)
	rate := f.Int("rate", 100, "requests per second, 1 to 1000")
	duration := f.Duration("duration", 0, "how long; 0 is until it is interrupted")
	report := f.Duration("report", time.Second, "between two lines of report")
	until := f.Bool("until-stdin-closes", false, "end with standard input too")
	if err := f.Parse(args); err != nil {
		return 64
	}
	u, err := url.Parse(f.Arg(0))
	switch {
	case f.NArg() != 1 || err != nil || u.Scheme != "http" || u.Host == "":
		fmt.Fprintln(stderr, "servers: load takes one URL, as in: servers load --rate 100 http://web:5000/hello")
		return 64
	case *rate < 1 || *rate > 1000 || *report <= 0 || *duration < 0:
		fmt.Fprintln(stderr, "servers: load takes a --rate of 1 to 1000 and a --report above 0")
		return 64
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}
	if *until {
		go func() {
			_, _ = io.Copy(io.Discard, stdin) // its end is all that counts
			cancel()
		}()
	}
	l := servers.Load{URL: u.String(), Rate: *rate, Report: *report, Out: stdout}
	if err := l.Run(ctx); err != nil {
		fmt.Fprintf(stderr, "servers: %v\n", err)
		return 1
	}
	return 0
}
