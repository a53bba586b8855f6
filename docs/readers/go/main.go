// Command hotset follows the hot set of hotstream, and sends clicks: docs/protocol.md in a few hundred lines of Go.
//
//	hotset follow -servers localhost:9092 -prefix hotstream          until its standard input ends
//	hotset produce -servers localhost:9092 -prefix hotstream < clicks.jsonl
//
// follow prints the table as JSON at the end.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hotset:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) == 0 {
		return fmt.Errorf("got no command, expected follow or produce")
	}
	flags := flag.NewFlagSet("hotset", flag.ExitOnError)
	servers := flags.String("servers", "localhost:9092", "HOST:PORT,... of the brokers")
	prefix := flags.String("prefix", "hotstream", "prefix of the topic names")
	_ = flags.Parse(arguments[1:])
	switch arguments[0] {
	case "follow":
		return follow(ctx, *servers, *prefix, os.Stdin, os.Stdout)
	case "produce":
		clicks, err := lines(os.Stdin)
		if err != nil {
			return err
		}
		return produce(ctx, *servers, *prefix, clicks)
	}
	return fmt.Errorf("got command %q, expected follow or produce", arguments[0])
}

func lines(input io.Reader) (found [][]byte, err error) {
	scanner := bufio.NewScanner(input)
	for scanner.Scan() {
		found = append(found, []byte(scanner.Text()))
	}
	return found, scanner.Err()
}

// follow keeps the table up to date until the input ends, then reads to the end of the topic and prints the table.
func follow(ctx context.Context, servers, prefix string, input io.Reader, output io.Writer) error {
	follower, err := NewFollower(ctx, servers, prefix)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, input)
		close(ended)
	}()
	for following := true; following; {
		select {
		case <-ended:
			following = false
		case <-time.After(100 * time.Millisecond):
		}
		if err := follower.CatchUp(ctx, servers); err != nil {
			return err
		}
	}
	if err := follower.readControl(ctx, servers, prefix+".control"); err != nil {
		return err
	}
	return json.NewEncoder(output).Encode(follower.describe())
}

func (follower *Follower) describe() map[string]any {
	rows, names, verified := map[string]int64{}, []string{}, true
	for _, shard := range follower.Shards {
		verified = verified && shard.Verified()
		for key, row := range shard.rows {
			rows[fmt.Sprintf("%016x", key)] = row
			if number := int(key >> payloadBits); number <= len(follower.Fields) {
				names = append(names, follower.Fields[number-1].format(key))
			}
		}
	}
	return map[string]any{
		"capacity": follower.Capacity, "fields": follower.Fields, "rows": rows, "features": names, "verified": verified,
		"bad": follower.bad, "shards": follower.Shards, "rereads": follower.rereads,
	}
}
