package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/zeebo/xxh3"
)

// A feature key: the field's number in the top 8 bits, a payload in the other 56.
const (
	payloadBits = 56
	missing     = uint64(1)<<payloadBits - 1
	hashSeed    = 0x686f7473
	shardSeed   = 0x5348415244000001
	digestSeed  = 0x4447535400000001
)

// Field is a categorical column: its name, and its kind, hex32 or hash.
type Field struct{ Name, Kind string }

func mix64(word uint64) uint64 {
	word = (word ^ word>>33) * 0xff51afd7ed558ccd
	word = (word ^ word>>33) * 0xc4ceb9fe1a85ec53
	return word ^ word>>33
}

func shardOf(key uint64, partitions int) int {
	return int((mix64(key^shardSeed) >> 32) * uint64(partitions) >> 32)
}

// digestTerm is the share of one hot feature in the digest of its shard.
func digestTerm(key uint64, row int64) uint64 {
	return mix64(mix64(key^digestSeed) ^ uint64(row))
}

func hashToken(token string) uint64 {
	payload := xxh3.HashStringSeed(token, hashSeed) & missing
	if payload == missing {
		payload--
	}
	return payload
}

// makeKey is the key of one value of a field; the empty value is a missing one.
func makeKey(number int, kind, token string) (uint64, error) {
	base := uint64(number) << payloadBits
	switch {
	case number < 1 || number > 255:
		return 0, fmt.Errorf("field number: got %d, expected 1 to 255", number)
	case token == "":
		return base | missing, nil
	case kind == "hash":
		return base | hashToken(token), nil
	}
	payload, err := strconv.ParseUint(token, 16, 32)
	if _, hexErr := hex.DecodeString(token); err != nil || hexErr != nil || len(token) != 8 {
		return 0, fmt.Errorf("token: got %q, expected 8 hex digits", token)
	}
	return base | payload, nil
}

// countKeys counts the keys of a click in JSON: a field has a string, a list of strings, null or nothing.
func countKeys(fields []Field, click []byte) (map[uint64]int, error) {
	var body struct {
		Features map[string]json.RawMessage
	}
	if err := json.Unmarshal(click, &body); err != nil {
		return nil, err
	}
	counts := map[uint64]int{}
	for index, field := range fields {
		tokens, err := values(body.Features[field.Name])
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", field.Name, err)
		}
		for _, token := range tokens {
			key, err := makeKey(index+1, field.Kind, token)
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", field.Name, err)
			}
			counts[key]++
		}
	}
	return counts, nil
}

// values are those of a field, without nulls and empty ones; a field without any has the missing value, "".
func values(raw json.RawMessage) (tokens []string, err error) {
	var listed []*string
	if len(raw) > 0 && raw[0] == '[' {
		err = json.Unmarshal(raw, &listed)
	} else if len(raw) > 0 {
		listed = make([]*string, 1)
		err = json.Unmarshal(raw, &listed[0])
	}
	for _, one := range listed {
		if one != nil && *one != "" {
			tokens = append(tokens, *one)
		}
	}
	if len(tokens) == 0 {
		tokens = []string{""}
	}
	return tokens, err
}

// format is the printed form of a key: C14:7e0ccccf, device_ip:~0c1d2e3f4a5b6c or C3:missing.
func (field Field) format(key uint64) string {
	payload := key & missing
	switch {
	case payload == missing:
		return field.Name + ":missing"
	case field.Kind == "hex32":
		return fmt.Sprintf("%s:%08x", field.Name, payload)
	}
	return fmt.Sprintf("%s:~%014x", field.Name, payload)
}
