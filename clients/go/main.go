// Starts a VM of `lodge serve`, tells how it ends, and stops it on Ctrl-C or after a time.
//
//	clients/go/build build/go-vm
//	build/go-vm [-socket PATH] [-for 10s] NAME KERNEL ROOTFS
//
// The calls are those of proto/vm_concierge.proto and proto/lodge.proto over containerd/ttrpc. Of
// that, version 1.1, which Debian 12 has, knows no streams: WaitVm stands in for WatchEvents here, and
// of the calls into the guest (lodge.v1.Guests) those without a stream can be made, not ExecInGuest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"lodge/agent"
	"lodge/concierge"
	"lodge/vms"
)

const (
	conciergeService = "vm_tools.concierge.VmConcierge"
	vmsService       = "lodge.v1.Vms"
	guestsService    = "lodge.v1.Guests"
)

// wire lets ttrpc 1.1, which is made for gogo/protobuf, carry the messages of google.golang.org/protobuf.
type wire struct{ proto.Message }

func (w wire) Reset()                      { proto.Reset(w.Message) }
func (w wire) String() string              { return prototext.Format(w.Message) }
func (w wire) ProtoMessage()               {}
func (w wire) Marshal() ([]byte, error)    { return proto.Marshal(w.Message) }
func (w wire) Unmarshal(data []byte) error { return proto.Unmarshal(data, w.Message) }

func call(ctx context.Context, c *ttrpc.Client, service, method string, request, reply proto.Message) error {
	return c.Call(ctx, service, method, wire{request}, wire{reply})
}

func start(ctx context.Context, c *ttrpc.Client, name, kernel, rootfs string, noInitramfs bool) error {
	request := &concierge.StartVmRequest{
		Name: name,
		Vm:   &concierge.VirtualMachineSpec{Kernel: kernel, Rootfs: rootfs, NoInitramfs: noInitramfs},
	}
	reply := &concierge.StartVmResponse{}
	if err := call(ctx, c, conciergeService, "StartVm", request, reply); err != nil {
		return err
	}
	if !reply.Success {
		return errors.New(reply.FailureReason)
	}
	fmt.Printf("%s: %v, process %d\n", name, reply.VmInfo.State, reply.VmInfo.Pid)
	return nil
}

func stop(ctx context.Context, c *ttrpc.Client, name string) error {
	reply := &concierge.StopVmResponse{}
	if err := call(ctx, c, conciergeService, "StopVm", &concierge.StopVmRequest{Name: name}, reply); err != nil {
		return err
	}
	if !reply.Success {
		return errors.New(reply.FailureReason)
	}
	return nil
}

// wait returns how the VM has ended, as soon as it has.
func wait(ctx context.Context, c *ttrpc.Client, name string) (*vms.WaitVmResponse, error) {
	reply := &vms.WaitVmResponse{}
	return reply, call(ctx, c, vmsService, "WaitVm", &vms.WaitVmRequest{Name: name}, reply)
}

// facts prints what runs in the guest, once its agent answers; a guest may have none.
func facts(ctx context.Context, c *ttrpc.Client, name string) error {
	reply := &agent.GetFactsResponse{}
	if err := call(ctx, c, guestsService, "GetGuestFacts", &vms.GetGuestFactsRequest{Name: name}, reply); err != nil {
		return err
	}
	fmt.Printf("%s: %s, Linux %s\n", name, reply.Os, reply.KernelRelease)
	return nil
}

func run() error {
	socket := flag.String("socket", os.Getenv("LODGE_SOCKET"), "the server's socket")
	limit := flag.Duration("for", 0, "stop the VM after this time (0: on Ctrl-C only)")
	askGuest := flag.Bool("facts", false, "print what the guest's agent says of it")
	noInitramfs := flag.Bool("no-initramfs", false, "the kernel mounts the root itself")
	flag.Parse()
	if flag.NArg() != 3 {
		return errors.New("usage: go-vm [option ...] NAME KERNEL ROOTFS")
	}
	if *socket == "" {
		*socket = "/run/lodge/socket"
	}
	name := flag.Arg(0)
	kernel, err := filepath.Abs(flag.Arg(1)) // the server stands elsewhere
	if err != nil {
		return err
	}
	rootfs, err := filepath.Abs(flag.Arg(2))
	if err != nil {
		return err
	}

	conn, err := net.Dial("unix", *socket)
	if err != nil {
		return fmt.Errorf("lodge serve is not running at %s: %w", *socket, err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()

	if err := start(ctx, client, name, kernel, rootfs, *noInitramfs); err != nil {
		return err
	}
	if *askGuest {
		if err := facts(ctx, client, name); err != nil {
			fmt.Fprintln(os.Stderr, "go-vm: the guest's agent:", err)
		}
	}
	type end struct {
		reply *vms.WaitVmResponse
		err   error
	}
	ended := make(chan end, 1)
	go func() { // at the same time, over the same connection
		reply, err := wait(context.Background(), client, name)
		ended <- end{reply, err}
	}()
	var timeout <-chan time.Time
	if *limit > 0 {
		timeout = time.After(*limit)
	}
	select {
	case e := <-ended:
		ended <- e
	case <-ctx.Done():
		err = stop(context.Background(), client, name)
	case <-timeout:
		err = stop(context.Background(), client, name)
	}
	if err != nil {
		return err
	}
	e := <-ended
	if e.err != nil {
		return e.err
	}
	fmt.Printf("%s: %v: %s\n", name, e.reply.End, e.reply.Reason)
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "go-vm:", err)
		os.Exit(1)
	}
}
