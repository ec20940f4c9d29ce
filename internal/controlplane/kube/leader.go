// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The times of the election, client-go's usual ones: a leader that cannot
// renew steps down before another may begin.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Lead runs lead whenever this replica holds the Lease; the context that lead
// is given ends with the leadership. It returns when ctx ends, having let the
// Lease go.
func Lead(ctx context.Context, client kubernetes.Interface, namespace, lease, identity string, log *slog.Logger, lead func(context.Context)) error {
	lock := &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Name: lease, Namespace: namespace}, Client: client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true, Name: lease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				log.Info("leading", "lease", lease)
				lead(ctx)
			},
			OnStoppedLeading: func() { log.Info("not leading", "lease", lease) },
		},
	})
	if err != nil {
		return fmt.Errorf("election: %w", err)
	}
	for ctx.Err() == nil {
		elector.Run(ctx) // returns when the leadership is lost
	}
	return nil
}
