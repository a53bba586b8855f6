// Command hotset follows the hot set of hotstream, and sends clicks: docs/protocol.md in a few hundred lines of Go.
//
//	go build -o hotset .
//	hotset follow -servers localhost:9092 -prefix hotstream          until its standard input ends (Ctrl-D)
//	hotset produce -servers localhost:9092 -prefix hotstream < clicks.jsonl
//
// follow prints the table as JSON at the end. The topics are there, and an agent fills them, after
//
//	hotstream topics create
//	hotstream agent --capacity 1000 --signal frequency --schema log.toml
//
// A line of clicks.jsonl is a click of the fields in log.toml, with the time in ms:
//
//	{"features":{"site":"example.org","tags":["a","b"]},"event_time_ms":1700000000000}
//
// The first changes come after 4096 features, or with a click whose time is 10 s or more after the first one's.
package main

import (
	"bufio"
	"bytes"
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
		return fmt.Errorf("got no command, expected follow or produce; hotset follow -h shows the options")
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
	return fmt.Errorf("got command %q, expected follow or produce; hotset follow -h shows the options", arguments[0])
}

// lines are the clicks of the input, one JSON object a line; empty lines are left out.
func lines(input io.Reader) (found [][]byte, err error) {
	scanner := bufio.NewScanner(input)
	for number := 1; scanner.Scan(); number++ {
		var click map[string]json.RawMessage
		line := bytes.TrimSpace(scanner.Bytes())
		if len(line) == 0 {
			continue
		}
		if err := json.Unmarshal(line, &click); err != nil {
			return nil, fmt.Errorf("line %d of the input: %w, expected a JSON object; nothing was sent", number, err)
		}
		found = append(found, bytes.Clone(line))
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
