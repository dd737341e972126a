// Package tools pins what other people test HTTP/2 and gRPC servers with.
//
//go:build tools

package tools

import (
	_ "github.com/summerwind/h2spec/cmd/h2spec"
	_ "google.golang.org/grpc/interop/client"
)
