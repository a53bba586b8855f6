package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// load reads a file of docs/vectors.
func load(t *testing.T, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile("../../vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, text string) uint64 {
	t.Helper()
	word, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return word
}

// wire is a record as the files have it.
type wire struct {
	Key     *string
	Value   *string
	Headers map[string]string
}

func (one wire) decode(t *testing.T) (Record, error) {
	t.Helper()
	var key, value []byte
	if one.Key != nil {
		key, _ = hex.DecodeString(*one.Key)
	}
	if one.Value != nil {
		value = []byte(*one.Value)
	}
	headers := map[string][]byte{}
	for name, content := range one.Headers {
		headers[name] = []byte(content)
	}
	return decode(key, value, headers)
}

func TestHashesKeysShardsAndDigestTerms(t *testing.T) {
	var file struct {
		Mix64 []struct{ Word, Mixed string }
		XXH3  []struct{ Text, Payload string }
		Keys  []struct {
			Field                     int
			Kind, Token, Key, Printed string
			Shards                    map[string]int
			Terms                     map[string]string `json:"digest_terms_by_row"`
		}
	}
	load(t, "keys.json", &file)
	for _, one := range file.Mix64 {
		if got := fmt.Sprintf("%016x", mix64(number(t, one.Word))); got != one.Mixed {
			t.Errorf("mix64(%s): got %s, expected %s", one.Word, got, one.Mixed)
		}
	}
	for _, one := range file.XXH3 {
		if got := fmt.Sprintf("%014x", hashToken(one.Text)); got != one.Payload {
			t.Errorf("hash of %q: got %s, expected %s", one.Text, got, one.Payload)
		}
	}
	for _, one := range file.Keys {
		key, err := makeKey(one.Field, one.Kind, one.Token)
		if err != nil || fmt.Sprintf("%016x", key) != one.Key {
			t.Errorf("key of %+v: got %016x (%v)", one, key, err)
		}
		if printed := (Field{fmt.Sprintf("f%d", one.Field), one.Kind}).format(key); printed != one.Printed {
			t.Errorf("printed: got %s, expected %s", printed, one.Printed)
		}
		for partitions, shard := range one.Shards {
			count, _ := strconv.Atoi(partitions)
			if got := shardOf(key, count); got != shard {
				t.Errorf("shard of %s in %d: got %d, expected %d", one.Key, count, got, shard)
			}
		}
		for text, term := range one.Terms {
			row, _ := strconv.ParseInt(text, 10, 64)
			if got := fmt.Sprintf("%016x", digestTerm(key, row)); got != term {
				t.Errorf("digest term of %s in row %d: got %s, expected %s", one.Key, row, got, term)
			}
		}
	}
	for _, token := range []string{"7e0ccccg", "7e0cccc", "+e0ccccf", "7e0ccccf0"} {
		if _, err := makeKey(1, "hex32", token); err == nil {
			t.Errorf("token %q: got a key, expected an error", token)
		}
	}
}

func TestRecordsAreDecodedAndBadOnesRefused(t *testing.T) {
	var good map[string]wire
	load(t, "records.json", &good)
	kinds := map[string]kind{"hot": change, "cold": change, "restated": change, "digest": digest, "new-epoch": digest, "claim": claim}
	for name, expected := range kinds {
		if record, err := good[name].decode(t); err != nil || record.Kind != expected {
			t.Errorf("%s: got %+v (%v)", name, record, err)
		}
	}
	var bad []struct {
		wire
		Reason string
	}
	load(t, "refused.json", &bad)
	for _, one := range bad {
		if record, err := one.decode(t); err == nil {
			t.Errorf("got %+v, expected a refusal: %s", record, one.Reason)
		}
	}
}

func TestLogsLeadToTheStatesOfThePage(t *testing.T) {
	type state struct {
		Epoch, Seq, Generation, Hot int64
		Digest                      string
		Applied, Refused            bool
		Verdict                     *string
	}
	var logs []struct {
		Name                  string
		Partition, Partitions int
		HighWatermark         *int64 `json:"high_watermark"`
		Records               []struct {
			wire
			Offset int64
			Then   state
		}
		Rows     map[string]int64
		Verified *bool
	}
	load(t, "logs.json", &logs)
	for _, log := range logs {
		shard, end := newShard(), int64(-1)
		if log.HighWatermark != nil {
			end = *log.HighWatermark
		}
		for _, step := range log.Records {
			record, err := step.decode(t)
			if err != nil {
				t.Fatalf("%s, offset %d: %v", log.Name, step.Offset, err)
			}
			outcome := shard.Apply(record, log.Partition, log.Partitions, step.Offset, end)
			got := state{shard.Epoch, shard.Seq, shard.Generation, int64(len(shard.rows)),
				fmt.Sprintf("%016x", shard.Digest), outcome.Applied, outcome.Refused, nil}
			verdict := ""
			if step.Then.Verdict != nil {
				verdict, step.Then.Verdict = *step.Then.Verdict, nil
			}
			if got != step.Then || outcome.Verdict != verdict {
				t.Errorf("%s, offset %d: got %+v %q, expected %+v %q", log.Name, step.Offset, got, outcome.Verdict, step.Then, verdict)
			}
		}
		for key, row := range log.Rows {
			if shard.row(number(t, key)) != row {
				t.Errorf("%s: key %s: got row %d, expected %d", log.Name, key, shard.row(number(t, key)), row)
			}
		}
		// The other partition of these logs is empty, and equal to its agent's table.
		if verified := log.Verified != nil && *log.Verified; shard.Verified() != verified || len(shard.rows) != len(log.Rows) {
			t.Errorf("%s: got verified %t and %d rows, expected %t and %d", log.Name, shard.Verified(), len(shard.rows), verified, len(log.Rows))
		}
	}
}

func TestKeysOfClicksAreCounted(t *testing.T) {
	var file struct {
		Clicks []struct {
			Fields [][2]string
			Click  string
			Counts map[string]int
		}
	}
	load(t, "keys.json", &file)
	for _, one := range file.Clicks {
		var fields []Field
		for _, pair := range one.Fields {
			fields = append(fields, Field{pair[0], pair[1]})
		}
		counts, err := countKeys(fields, []byte(one.Click))
		if err != nil || len(counts) != len(one.Counts) {
			t.Errorf("keys of %s: got %v (%v)", one.Click, counts, err)
		}
		for key, count := range counts {
			if one.Counts[fmt.Sprintf("%016x", key)] != count {
				t.Errorf("count of %016x in %s: got %d", key, one.Click, count)
			}
		}
	}
	if len(file.Clicks) == 0 {
		t.Error("no clicks in keys.json")
	}
}

func TestTheInputOfProduceIsCheckedBeforeAnythingIsSent(t *testing.T) {
	clicks, err := lines(strings.NewReader(" {\"features\":{}}\r\n\n{\"label\":1}"))
	if err != nil || len(clicks) != 2 || string(clicks[0]) != `{"features":{}}` {
		t.Errorf("got %q (%v)", clicks, err)
	}
	for _, broken := range []string{"{\"label\":1}\n{\"broken\":\n", "{}\n[1]\n"} {
		if _, err := lines(strings.NewReader(broken)); err == nil || !strings.Contains(err.Error(), "line 2 of the input") {
			t.Errorf("lines of %q: got %v", broken, err)
		}
	}
}
