module github.com/lateen-mesh/lateen/test/lab

go 1.26.0

require (
	github.com/google/go-containerregistry v0.22.1
	github.com/klauspost/compress v1.19.2 // indirect
	github.com/mccutchen/go-httpbin/v2 v2.15.0 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/opencontainers/image-spec v1.1.1 // indirect
	golang.org/x/sync v0.22.0 // indirect
)

tool github.com/mccutchen/go-httpbin/v2/cmd/go-httpbin
