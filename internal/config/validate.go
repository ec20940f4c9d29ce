// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Validate checks one object by the rules of Istio's admission webhook and of
// the validation rules in its CRDs. Findings name object and field. errs must
// keep the object out; warnings name what is accepted but deprecated, without
// effect, or not honoured here.
func Validate(obj *Object) (warnings, errs []*Problem) {
	c := &checker{obj: obj}
	if obj.Kind.newSpec == nil {
		c.fail("kind", "", "objects of kind %s are the cluster's own", obj.Kind.Name)
		return nil, c.problems
	}
	if want := obj.Kind.newSpec(); reflect.TypeOf(obj.Spec) != reflect.TypeOf(want) || reflect.ValueOf(obj.Spec).IsNil() {
		c.fail("spec", "", "is %T, want %T", obj.Spec, want)
		return nil, c.problems
	}
	if m, ok := obj.Spec.(proto.Message); ok {
		if obj.Kind == MeshConfig {
			c.defaults = DefaultMeshConfig().ProtoReflect()
		}
		c.message(m.ProtoReflect(), "spec")
	}
	if obj.Kind.NotHonoured != "" {
		c.warn("", obj.Kind.NotHonoured, "%s objects have no effect here", obj.Kind.Name)
	}
	if obj.Kind.validate != nil {
		obj.Kind.validate(c, obj)
	}
	slices.SortStableFunc(c.problems, func(a, b *Problem) int { return cmp.Compare(a.Field, b.Field) })
	for _, p := range c.problems {
		p.Object = obj.Key.String()
		p.File, p.Line = obj.Source.File, 0
		if p.Severity == SeverityError {
			errs = append(errs, p)
		} else {
			warnings = append(warnings, p)
		}
	}
	return warnings, errs
}

// checker collects the findings about one object.
type checker struct {
	obj      *Object
	problems []*Problem
	// defaults is what the message that is being checked is by default; nil:
	// all in it is the user's wish.
	defaults protoreflect.Message
}

func (c *checker) fail(path, fix, format string, args ...any) {
	c.problems = append(c.problems, &Problem{Severity: SeverityError, Field: path, Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (c *checker) warn(path, fix, format string, args ...any) {
	c.problems = append(c.problems, &Problem{Severity: SeverityWarning, Field: path, Message: fmt.Sprintf(format, args...), Fix: fix})
}

// check reports a failure unless ok.
func (c *checker) check(ok bool, path, fix, format string, args ...any) {
	if !ok {
		c.fail(path, fix, format, args...)
	}
}

// oneOf reports a value that is not in the list, with the nearest that is.
func (c *checker) oneOf(path, value string, list []string, message string) {
	if !slices.Contains(list, value) {
		c.fail(path, didYouMean(value, list), "%q %s", clip(value), message)
	}
}

// The durations for which 0 says something; all others are 1 ms or more.
var zeroDurations = map[protoreflect.FullName]bool{
	"istio.networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.HTTPCookie.ttl": true,
	"istio.networking.v1alpha3.TrafficPolicy.RetryBudget.budget_interval":            true,
	"istio.mesh.v1alpha1.MeshConfig.protocol_detection_timeout":                      true,
}

// message checks what the API says of its fields: required ones, durations,
// ports and percentages, and names those that are deprecated or not honoured.
func (c *checker) message(m protoreflect.Message, path string) {
	if v, ok := m.Interface().(*durationpb.Duration); ok {
		c.check(v.AsDuration() >= time.Millisecond, path, `write a number and a unit, such as "1.5s"`, "is %s, want 1ms or more", v.AsDuration())
		return
	}
	if strings.HasPrefix(string(m.Descriptor().FullName()), "google.protobuf.") {
		return
	}
	fields := m.Descriptor().Fields()
	defaults := c.defaults
	defer func() { c.defaults = defaults }()
	for i := range fields.Len() {
		fd := fields.Get(i)
		p := join(path, fd.JSONName())
		c.defaults = nil
		if !m.Has(fd) {
			c.check(!isRequired(fd), p, "add it", "is required")
			continue
		}
		v := m.Get(fd)
		if defaults == nil || !defaults.Has(fd) || !defaults.Get(fd).Equal(v) {
			c.marks(m, fd, p)
		}
		if defaults != nil && defaults.Has(fd) && fd.Message() != nil && !fd.IsList() && !fd.IsMap() {
			c.defaults = defaults.Get(fd).Message()
		}
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
					c.message(v.Message(), p+"["+clip(k.String())+"]")
					return true
				})
			}
		case fd.IsList():
			if fd.Message() != nil {
				for i := range v.List().Len() {
					c.message(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", p, i))
				}
			}
		case zeroDurations[fd.FullName()]:
			d, ok := v.Message().Interface().(*durationpb.Duration)
			c.check(ok && d.AsDuration() >= 0, p, "", "is less than 0")
		case fd.Message() != nil:
			c.message(v.Message(), p)
		default:
			c.scalar(fd, v, p)
		}
	}
}

func (c *checker) scalar(fd protoreflect.FieldDescriptor, v protoreflect.Value, path string) {
	switch fd.Kind() {
	case protoreflect.Uint32Kind:
		name := string(fd.Name())
		if name == "port" || name == "target_port" || name == "number" {
			c.check(v.Uint() <= 65535, path, "write a port of 1 to 65535", "%d is not a port", v.Uint())
		}
	case protoreflect.Int32Kind:
		// No field of these kinds has a use for a negative number.
		c.check(v.Int() >= 0, path, "write 0 or more", "is %d", v.Int())
		if strings.HasSuffix(string(fd.Name()), "_percent") || fd.Name() == "percent" {
			c.check(v.Int() <= 100, path, "write 0 to 100", "is %d", v.Int())
		}
	case protoreflect.DoubleKind:
		if fd.Parent().Name() == "Percent" {
			c.check(v.Float() >= 0 && v.Float() <= 100, path, "write 0 to 100", "is %v", v.Float())
		}
	}
}

func (c *checker) marks(m protoreflect.Message, fd protoreflect.FieldDescriptor, path string) {
	if reason, ok := notHonoured[fd.FullName()]; ok {
		c.warn(path, "", "is not honoured: %s", reason)
	}
	if fix, ok := refusedFields[fd.FullName()]; ok {
		c.fail(path, fix, "is not supported")
	}
	if isDeprecated(fd) {
		c.warn(path, "", "is deprecated")
	}
	if fd.Enum() != nil && !fd.IsList() && !fd.IsMap() {
		if v := fd.Enum().Values().ByNumber(m.Get(fd).Enum()); v != nil && isDeprecated(v) {
			c.warn(path, "", "value %s is deprecated", v.Name())
		}
	}
}

// required caches isRequired: reading options costs more than the check.
var required sync.Map // protoreflect.FieldDescriptor -> bool

func isRequired(fd protoreflect.FieldDescriptor) bool {
	if v, ok := required.Load(fd); ok {
		return v.(bool)
	}
	v := readRequired(fd)
	required.Store(fd, v)
	return v
}

// readRequired reports whether the API marks the field
// (google.api.field_behavior) = REQUIRED.
func readRequired(fd protoreflect.FieldDescriptor) (required bool) {
	const REQUIRED = 2
	fd.Options().ProtoReflect().Range(func(ext protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if ext.FullName() == "google.api.field_behavior" {
			for i := range v.List().Len() {
				required = required || v.List().Get(i).Enum() == REQUIRED
			}
		}
		return !required
	})
	return required
}
