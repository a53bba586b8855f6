package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
)

const (
	version       = 2
	maxRows       = 1 << 27
	maxValueBytes = 1 << 16
	maxTimeMs     = 253402300799999
)

type kind int

const (
	change kind = iota
	digest
	claim
	other // a kind that this reader does not know, which it ignores
)

// Record is a decoded record of the assignments topic.
type Record struct {
	Kind                          kind
	Key                           uint64
	Shard, Epoch, Seq, Generation int64
	Restated                      bool
	Row                           int64 // -1: the feature is cold
	Hot                           int64 // of a digest
	Digest                        uint64
}

var (
	featureForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}:(?:~([0-9a-f]{14})|([0-9a-f]{8})|missing)$`)
	digestForm  = regexp.MustCompile(`^[0-9a-f]{16}$`)
	digits      = regexp.MustCompile(`^[0-9]{1,19}$`)
)

// decode refuses a record that breaks a rule of the protocol.
func decode(key, value []byte, headers map[string][]byte) (Record, error) {
	record := Record{Row: -1, Restated: string(headers["restated"]) == "1"}
	if len(key) != 8 {
		return record, fmt.Errorf("key: got %d bytes, expected 8", len(key))
	}
	record.Key = binary.BigEndian.Uint64(key)
	if err := record.readHeaders(headers); err != nil {
		return record, err
	}
	if value == nil {
		if record.Key == 0 {
			record.Kind = other
		} else if record.Key>>payloadBits == 0 {
			return record, errors.New("key: got field number 0, expected 1 to 255")
		}
		return record, nil
	}
	if len(value) > maxValueBytes {
		return record, fmt.Errorf("value: got %d bytes, expected at most %d", len(value), maxValueBytes)
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal(value, &body); err != nil || body == nil {
		return record, fmt.Errorf("value: got no JSON object (%v)", err)
	}
	for name, header := range map[string]int64{"shard": record.Shard, "epoch": record.Epoch, "seq": record.Seq} {
		if number, err := integer(body[name], math.MaxInt64); err != nil || number != header {
			return record, fmt.Errorf("%s: got %s in the value, expected %d as in the header", name, body[name], header)
		}
	}
	if _, named := body["kind"]; named || record.Key == 0 {
		return record, record.readControl(body)
	}
	return record, record.readChange(body)
}

func (record *Record) readHeaders(headers map[string][]byte) error {
	var v int64
	numbers := map[string]*int64{"v": &v, "shard": &record.Shard, "epoch": &record.Epoch, "seq": &record.Seq}
	if _, named := headers["generation"]; named {
		numbers["generation"] = &record.Generation
	}
	for name, target := range numbers {
		number, err := integer(headers[name], math.MaxInt64)
		if err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
		*target = number
	}
	if v != version {
		return fmt.Errorf("version: got %d, expected %d", v, version)
	}
	return nil
}

func (record *Record) readControl(body map[string]json.RawMessage) error {
	var name, sum string
	_ = json.Unmarshal(body["kind"], &name)
	record.Kind = other
	switch name {
	case "claim":
		if number, err := integer(body["generation"], math.MaxInt64); err == nil && number == record.Generation && number > 0 {
			record.Kind = claim
		}
	case "digest":
		record.Kind = digest
		hot, err := integer(body["hot"], maxRows)
		if err != nil {
			return fmt.Errorf("hot: %w", err)
		}
		if json.Unmarshal(body["digest"], &sum) != nil || !digestForm.MatchString(sum) {
			return fmt.Errorf("digest: got %s, expected 16 lower-case hex digits", body["digest"])
		}
		record.Hot = hot
		record.Digest, _ = strconv.ParseUint(sum, 16, 64)
	}
	return nil
}

func (record *Record) readChange(body map[string]json.RawMessage) error {
	var tier, feature string
	var source map[string]json.RawMessage
	if json.Unmarshal(body["tier"], &tier) != nil || tier != "hot" {
		return fmt.Errorf("tier: got %s, expected hot", body["tier"])
	}
	row, err := integer(body["row"], maxRows-1)
	if err != nil {
		return fmt.Errorf("row: %w", err)
	}
	record.Row = row
	if json.Unmarshal(body["feature"], &feature) != nil || !names(feature, record.Key) {
		return fmt.Errorf("feature: got %s, expected the printed form of key %016x", body["feature"], record.Key)
	}
	score, err := strconv.ParseFloat(string(body["score"]), 64)
	if err != nil || score < 0 || math.IsInf(score, 0) || math.IsNaN(score) {
		return fmt.Errorf("score: got %s, expected a finite number of 0 or more", body["score"])
	}
	if _, err := integer(body["event_time_ms"], maxTimeMs); err != nil {
		return fmt.Errorf("event_time_ms: %w", err)
	}
	if json.Unmarshal(body["source"], &source) != nil {
		return fmt.Errorf("source: got %s, expected an object", body["source"])
	}
	for _, name := range []string{"partition", "offset"} {
		if _, err := integer(source[name], math.MaxInt64); err != nil {
			return fmt.Errorf("source %s: %w", name, err)
		}
	}
	return nil
}

// names tells whether a printed feature is that of a key; the field's name is free.
func names(feature string, key uint64) bool {
	match := featureForm.FindStringSubmatch(feature)
	if match == nil || key>>payloadBits == 0 {
		return false
	}
	payload, err := strconv.ParseUint(match[1]+match[2], 16, 64)
	if err != nil {
		payload = missing
	}
	return payload == key&missing
}

func integer(text []byte, most int64) (int64, error) {
	number, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || !digits.Match(text) || number > most {
		return 0, fmt.Errorf("got %q, expected an integer from 0 to %d", text, most)
	}
	return number, nil
}
