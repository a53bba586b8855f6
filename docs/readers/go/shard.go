package main

// Shard is a reader's state of one partition.
type Shard struct {
	Epoch, Seq, Generation int64
	Digest                 uint64
	Refused, Mismatches    int
	rows                   map[uint64]int64 // key -> row
	owners                 map[int64]uint64 // row -> key
	verifiedSeq            int64
	differs                bool
	completeFrom           int64
	gap                    *gap
}

// gap is open from a jump in seq to the end that the partition had when it was read.
type gap struct {
	floor int64
	keys  map[uint64]int64 // the newest seq of each key
	rows  map[int64]int64  // and of each row
}

func newShard() *Shard {
	return &Shard{rows: map[uint64]int64{}, owners: map[int64]uint64{}}
}

func newGap(floor int64) *gap {
	return &gap{floor: floor, keys: map[uint64]int64{}, rows: map[int64]int64{}}
}

// Verified tells whether the table equals the agent's, as far as this shard was read.
func (shard *Shard) Verified() bool { return shard.Seq == shard.verifiedSeq && !shard.differs }

// Outcome is what a record did: it changed the table, was refused, or has a digest's verdict.
type Outcome struct {
	Applied, Refused bool
	Verdict          string
}

// Apply applies one record of a partition; end is its high watermark as of the fetch, -1 if nothing was compacted.
func (shard *Shard) Apply(record Record, partition, partitions int, offset, end int64) Outcome {
	foreign := record.Kind == change && shardOf(record.Key, partitions) != partition
	if record.Shard != int64(partition) || foreign {
		shard.Refused++
		return Outcome{Refused: true}
	}
	if record.Kind == other || record.Generation < shard.Generation {
		return Outcome{}
	}
	shard.Generation = record.Generation
	switch record.Kind {
	case digest:
		if record.Epoch > shard.Epoch {
			shard.begin(record.Epoch)
			if record.Hot == 0 {
				shard.Seq = record.Seq
			}
		}
		shard.skipTo(record, offset, end)
		return Outcome{Verdict: shard.compare(record, offset)}
	case change:
		return Outcome{Applied: shard.change(record, offset, end)}
	}
	return Outcome{}
}

func (shard *Shard) begin(epoch int64) {
	shard.rows, shard.owners, shard.Digest = map[uint64]int64{}, map[int64]uint64{}, 0
	shard.Epoch, shard.Seq = epoch, 0
	if shard.gap != nil {
		shard.gap = newGap(shard.gap.floor)
	}
}

// skipTo moves to a newer digest: the changes before it that were not read are no longer in the log.
func (shard *Shard) skipTo(record Record, offset, end int64) {
	if shard.gap != nil && offset >= shard.completeFrom {
		shard.gap = nil
	}
	if end >= 0 && record.Epoch == shard.Epoch && record.Seq > shard.Seq {
		if shard.gap == nil {
			shard.gap = newGap(shard.Seq)
		}
		shard.completeFrom, shard.Seq = max(end, offset+1), record.Seq
	}
}

func (shard *Shard) change(record Record, offset, end int64) bool {
	if shard.gap != nil && offset >= shard.completeFrom {
		shard.gap = nil
	}
	if record.Epoch < shard.Epoch {
		return false
	}
	next := shard.Seq + 1
	if record.Restated {
		next = shard.Seq
	}
	begins := record.Epoch > shard.Epoch
	isNew := begins || record.Seq >= next
	if isNew && record.Seq != next && end >= 0 {
		shard.completeFrom = max(end, offset+1)
		if shard.gap == nil {
			shard.gap = newGap(shard.Seq)
		}
	}
	if begins {
		shard.begin(record.Epoch)
	} else if record.Restated {
		isNew = isNew && shard.row(record.Key) != record.Row
	}
	if shard.gap != nil {
		isNew = isNew || shard.gap.isNews(record)
		if isNew {
			shard.gap.note(record)
		}
	}
	shard.Seq = max(shard.Seq, record.Seq)
	if isNew {
		shard.set(record.Key, record.Row)
	}
	return isNew
}

func (gap *gap) isNews(record Record) bool {
	newest := gap.floor
	if seq, known := gap.keys[record.Key]; known {
		newest = max(newest, seq)
	}
	if seq, known := gap.rows[record.Row]; known && record.Row >= 0 {
		newest = max(newest, seq)
	}
	return record.Seq > newest
}

func (gap *gap) note(record Record) {
	gap.keys[record.Key] = record.Seq
	if record.Row >= 0 {
		gap.rows[record.Row] = record.Seq
	}
}

func (shard *Shard) row(key uint64) int64 {
	if row, hot := shard.rows[key]; hot {
		return row
	}
	return -1
}

// set gives a key a row, which the key's former row and the row's former owner lose; -1 makes the key cold.
func (shard *Shard) set(key uint64, row int64) {
	if owner, taken := shard.owners[row]; taken {
		shard.remove(owner)
	}
	shard.remove(key)
	if row >= 0 {
		shard.rows[key], shard.owners[row] = row, key
		shard.Digest += digestTerm(key, row)
	}
}

func (shard *Shard) remove(key uint64) {
	if row, hot := shard.rows[key]; hot {
		delete(shard.rows, key)
		delete(shard.owners, row)
		shard.Digest -= digestTerm(key, row)
	}
}

func (shard *Shard) compare(record Record, offset int64) string {
	switch {
	case record.Epoch > shard.Epoch || record.Epoch == shard.Epoch && record.Seq > shard.Seq:
		shard.verifiedSeq = -1
		return "ahead"
	case record.Epoch < shard.Epoch || record.Seq < shard.Seq:
		return "stale"
	case record.Digest == shard.Digest && record.Hot == int64(len(shard.rows)):
		shard.verifiedSeq, shard.differs = shard.Seq, false
		return "equal"
	case offset+1 >= shard.completeFrom:
		shard.Mismatches++
		shard.differs = true
		return "differs"
	}
	return "unproven"
}
