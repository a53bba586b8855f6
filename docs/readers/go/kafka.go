package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Follower reads the hot set of a prefix.
type Follower struct {
	Capacity  int64
	Fields    []Field
	Shards    []*Shard
	bad       int
	topic     string
	positions []int64
	client    *kgo.Client
	rereads   int
}

// NewFollower connects, and reads what a reader needs to know beside the table: capacity and fields.
func NewFollower(ctx context.Context, servers, prefix string) (*Follower, error) {
	follower := &Follower{topic: prefix + ".assignments"}
	if err := follower.readControl(ctx, servers, prefix+".control"); err != nil {
		return nil, err
	}
	return follower, follower.open(ctx, servers)
}

// open reads the topic from its beginning, with empty tables.
func (follower *Follower) open(ctx context.Context, servers string) error {
	client, ends, err := consume(ctx, servers, follower.topic)
	if err != nil {
		return err
	}
	follower.client = client
	follower.positions = make([]int64, len(ends))
	follower.Shards = nil
	for range ends {
		follower.Shards = append(follower.Shards, newShard())
	}
	return nil
}

// consume opens a client at the oldest record of every partition, and asks for the ends of the partitions.
func consume(ctx context.Context, servers, topic string) (*kgo.Client, []int64, error) {
	seeds := kgo.SeedBrokers(strings.Split(servers, ",")...)
	client, err := kgo.NewClient(seeds, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond), kgo.KeepControlRecords())
	if err != nil {
		return nil, nil, err
	}
	ends, err := endsOf(ctx, client, topic)
	if err != nil {
		client.Close()
	}
	return client, ends, err
}

func endsOf(ctx context.Context, client *kgo.Client, topic string) ([]int64, error) {
	listed, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	if err := listed.Error(); err != nil {
		return nil, fmt.Errorf("%s: %w; hotstream topics create makes the topics of a prefix", topic, err)
	}
	ends := make([]int64, len(listed[topic]))
	for number, offset := range listed[topic] {
		ends[number] = offset.Offset
	}
	return ends, nil
}

// CatchUp reads up to the present end. A digest that differs is a loss: the topic is then read again, once, and if the
// log itself lacks a change, the owner of the shard restates it within minutes.
func (follower *Follower) CatchUp(ctx context.Context, servers string) error {
	ends, err := endsOf(ctx, follower.client, follower.topic)
	if err != nil {
		return err
	}
	for !reached(follower.positions, ends) {
		if err := follower.poll(ctx); err != nil {
			return err
		}
	}
	for _, shard := range follower.Shards {
		if shard.differs && follower.rereads == 0 {
			follower.rereads++
			follower.client.Close()
			if err := follower.open(ctx, servers); err != nil {
				return err
			}
			return follower.CatchUp(ctx, servers)
		}
	}
	return nil
}

func reached(positions, ends []int64) bool {
	for number, end := range ends {
		if positions[number] < end {
			return false
		}
	}
	return true
}

func (follower *Follower) poll(ctx context.Context) error {
	fetches := follower.client.PollFetches(ctx)
	if err := fetches.Err0(); err != nil {
		return err
	}
	for _, failed := range fetches.Errors() {
		return fmt.Errorf("%s[%d]: %w", failed.Topic, failed.Partition, failed.Err)
	}
	fetches.EachPartition(func(fetched kgo.FetchTopicPartition) {
		number := int(fetched.Partition)
		for _, record := range fetched.Records {
			follower.positions[number] = record.Offset + 1
			if !record.Attrs.IsControl() {
				follower.apply(number, record, fetched.HighWatermark)
			}
		}
	})
	return nil
}

func (follower *Follower) apply(partition int, record *kgo.Record, end int64) {
	decoded, err := decode(record.Key, record.Value, headersOf(record))
	if err != nil {
		follower.bad++
		return
	}
	follower.Shards[partition].Apply(decoded, partition, len(follower.Shards), record.Offset, end)
}

func headersOf(record *kgo.Record) map[string][]byte {
	named := map[string][]byte{}
	for _, header := range record.Headers {
		named[header.Key] = header.Value
	}
	return named
}

// readControl reads capacity and fields from the control topic, of which the newest record of each key counts.
func (follower *Follower) readControl(ctx context.Context, servers, topic string) error {
	client, ends, err := consume(ctx, servers, topic)
	if err != nil {
		return err
	}
	defer client.Close()
	for position := []int64{0}; !reached(position, ends); {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			position[0] = record.Offset + 1
			follower.note(record)
		})
	}
	return nil
}

func (follower *Follower) note(record *kgo.Record) {
	var agents struct{ Settings struct{ Capacity int64 } }
	var listed struct{ Fields [][2]string }
	switch string(record.Key) {
	case "agents":
		if json.Unmarshal(record.Value, &agents) == nil {
			follower.Capacity = agents.Settings.Capacity
		}
	case "fields":
		if json.Unmarshal(record.Value, &listed) == nil {
			follower.Fields = nil
			for _, pair := range listed.Fields {
				follower.Fields = append(follower.Fields, Field{pair[0], pair[1]})
			}
		}
	}
}

// produce sends clicks, each a JSON object as the protocol has it.
func produce(ctx context.Context, servers, prefix string, clicks [][]byte) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(servers, ",")...), kgo.DefaultProduceTopic(prefix+".clicks"))
	if err != nil {
		return err
	}
	defer client.Close()
	header := []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/json; charset=utf-8")}}
	records := make([]*kgo.Record, len(clicks))
	for number, click := range clicks {
		records[number] = &kgo.Record{Value: click, Headers: header}
	}
	return client.ProduceSync(ctx, records...).FirstErr()
}
