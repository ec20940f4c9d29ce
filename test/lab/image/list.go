// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"path"
)

// Versions of the images that unmodified manifests ask for.
const (
	bookinfoVersion   = "1.20.3" // samples/bookinfo/platform/kube
	bookinfoEarlier   = "1.20.1" // what Istio 1.23's walkthroughs show
	helloworldVersion = "1.0"
	tcpEchoVersion    = "1.3"
	curlVersion       = "8.16.0"
	httpbinVersion    = "v2.15.0" // the module's, too
)

// The users of the images, numeric so that runAsNonRoot can be checked.
const (
	appUser  = "1000:1000"
	curlUser = "100:101"   // upstream's
	meshUser = "1337:1337" // Istio's
)

// Where the images of Istio's samples come from, today and before.
var istioRegistries = []string{"registry.istio.io/release/", "docker.io/istio/"}

// NotBuilt are the images of Istio's samples that there are none of, and why.
var NotBuilt = map[string]string{
	"registry.istio.io/release/examples-bookinfo-mongodb:1.20.3": "a database is not a program of ours; ratings-v2 keeps its ratings in memory",
	"registry.istio.io/release/examples-bookinfo-mysqldb:1.20.3": "a database is not a program of ours; ratings-v2 keeps its ratings in memory",
	"registry.istio.io/testing/ext-authz:latest":                 "comes with external authorization",
}

// List names every image. tag is that of Lateen's own, the version they are.
func List(tag string) []Spec {
	out := mesh(tag)
	out = append(out, bookinfo()...)
	out = append(out, todo()...)
	out = append(out, servers()...)
	return append(out, others()...)
}

// base is what every image of a Go program begins with: names for the users,
// and a place for temporary files.
func base() Layer {
	return Layer{Files: []File{
		{Path: "/etc/", Mode: 0o755},
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/sbin/nologin\n" +
			"curl_user:x:100:101:curl_user:/home/curl_user:/bin/sh\napp:x:1000:1000:app:/tmp:/sbin/nologin\nistio-proxy:x:1337:1337:istio-proxy:/tmp:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\ncurl_group:x:101:\napp:x:1000:\nistio-proxy:x:1337:\nnogroup:x:65534:\n")},
		{Path: "/tmp/", Mode: 0o1777},
	}}
}

// program is a Go program of the root module, in cmd/name.
func program(name string) Layer {
	return Layer{Binary: &Binary{Module: ".", Package: "./cmd/" + name, Path: "/usr/local/bin/" + name}}
}

// released is a program that carries the version.
func released(name string, links ...string) Layer {
	l := program(name)
	l.Binary.Versioned, l.Binary.Links = true, links
	return l
}

// tool is a Go program of another module, which test/lab's go.mod names.
func tool(pkg, dir string) Layer {
	return Layer{Binary: &Binary{Module: "test/lab", Package: pkg, Path: path.Join(dir, path.Base(pkg))}}
}

func mesh(tag string) []Spec {
	return []Spec{
		{
			Archive: "lateend", Refs: []string{"docker.io/lateen/lateend:" + tag},
			Layers:     []Layer{base(), released("lateend")},
			Entrypoint: []string{"/usr/local/bin/lateend"}, User: meshUser,
			Ports: []int{8080, 15010, 15012, 15014, 15017},
		},
		{
			Archive: "lateen-proxy", Refs: []string{"docker.io/lateen/lateen-proxy:" + tag},
			Layers: []Layer{base(), {Files: []File{
				{Path: "/etc/istio/", Mode: 0o755},
				{Path: "/etc/istio/proxy/", Mode: 0o755, UID: 1337, GID: 1337},
				{Path: "/var/", Mode: 0o755},
				{Path: "/var/lib/", Mode: 0o755},
				{Path: "/var/lib/istio/", Mode: 0o755, UID: 1337, GID: 1337},
				{Path: "/var/lib/istio/data/", Mode: 0o755, UID: 1337, GID: 1337},
			}}, released("lateen-proxy", "/usr/local/bin/pilot-agent")},
			Entrypoint: []string{"/usr/local/bin/lateen-proxy"}, User: meshUser,
		},
	}
}

// bookinfo are Istio's Bookinfo images: one program, told by the environment
// which service and version it is.
func bookinfo() []Spec {
	var out []Spec
	for _, s := range []struct{ service, version string }{
		{"productpage", "v1"}, {"details", "v1"}, {"details", "v2"}, {"ratings", "v1"}, {"ratings", "v2"},
		{"reviews", "v1"}, {"reviews", "v2"}, {"reviews", "v3"},
	} {
		repo := fmt.Sprintf("examples-bookinfo-%s-%s:", s.service, s.version)
		out = append(out, Spec{
			Archive:    "bookinfo",
			Refs:       append(istio(repo+bookinfoVersion), "docker.io/istio/"+repo+bookinfoEarlier),
			Layers:     []Layer{base(), program("bookinfo")},
			Env:        []string{"SERVICE_NAME=" + s.service, "SERVICE_VERSION=" + s.version},
			Entrypoint: []string{"/usr/local/bin/bookinfo"}, User: appUser, Ports: []int{9080},
		})
	}
	return out
}

func istio(repoTag string) []string {
	var out []string
	for _, r := range istioRegistries {
		out = append(out, r+repoTag)
	}
	return out
}

// todo are the images that Novatec's introduction to Istio deploys.
func todo() []Spec {
	const repo = "docker.io/novatec/technologyconsulting-containerexerciseapp-"
	image := func(service, version string, port int) Spec {
		return Spec{
			Archive: "todo", Refs: []string{repo + "todo" + service + ":" + version},
			Layers:     []Layer{base(), program("todo")},
			Env:        []string{"SERVICE_VERSION=" + version},
			Entrypoint: []string{"/usr/local/bin/todo", service}, User: appUser, Ports: []int{port},
		}
	}
	return []Spec{image("backend", "v0.1", 8080), image("ui", "v0.1", 8090), image("ui", "v0.2", 8090)}
}

// servers are the small servers of Istio's samples.
func servers() []Spec {
	image := func(server string, refs []string, env []string, ports ...int) Spec {
		return Spec{
			Archive: "servers", Refs: refs, Env: env,
			Layers:     []Layer{base(), program("servers")},
			Entrypoint: []string{"/usr/local/bin/servers", server}, User: appUser, Ports: ports,
		}
	}
	out := []Spec{
		image("health", istio("health:example"), nil, 8001, 8002),
		image("websocket", []string{"docker.io/hiroakis/tornado-websocket-example:latest"}, nil, 8888),
	}
	for _, v := range []string{"v1", "v2"} {
		out = append(out, image("helloworld", istio("examples-helloworld-"+v+":"+helloworldVersion), []string{"SERVICE_VERSION=" + v}, 5000))
	}
	echo := image("tcp-echo", istio("tcp-echo-server:"+tcpEchoVersion), nil, 9000)
	echo.Cmd = []string{"9000", "hello"} // upstream's
	return append(out, echo)
}

// others are programs that other people wrote.
func others() []Spec {
	return []Spec{
		{
			Archive: "httpbin", Refs: []string{"docker.io/mccutchen/go-httpbin:" + httpbinVersion},
			Layers: []Layer{base(), tool("github.com/mccutchen/go-httpbin/v2/cmd/go-httpbin", "/bin")},
			Cmd:    []string{"/bin/go-httpbin"}, User: appUser, Ports: []int{8080},
		},
		{
			Archive: "fortio", Refs: []string{"docker.io/fortio/fortio:latest_release", "docker.io/fortio/fortio:latest"},
			Layers: []Layer{base(), tool("fortio.org/fortio", "/usr/bin"), {Files: []File{
				{Path: "/var/", Mode: 0o755}, {Path: "/var/lib/", Mode: 0o755}, {Path: "/var/lib/fortio/", Mode: 0o755, UID: 1000, GID: 1000},
			}}},
			WorkingDir: "/var/lib/fortio",
			Entrypoint: []string{"/usr/bin/fortio"}, Cmd: []string{"server"}, User: appUser, Ports: []int{8079, 8080, 8081},
		},
		{
			Archive: "busybox", Refs: []string{"registry.k8s.io/busybox:latest", "docker.io/library/busybox:latest"},
			Layers: []Layer{base(), {Debian: Busybox}},
			Cmd:    []string{"sh"},
		},
		{
			Archive: "curl", Refs: []string{"docker.io/curlimages/curl:" + curlVersion, "docker.io/curlimages/curl:latest"},
			Layers:     []Layer{base(), {Debian: Busybox}, {Debian: Curl}},
			Env:        []string{"HOME=/home/curl_user"},
			Entrypoint: []string{"curl"}, Cmd: []string{"--help"}, User: curlUser, WorkingDir: "/home/curl_user",
		},
	}
}
