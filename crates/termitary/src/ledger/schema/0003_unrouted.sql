-- fanned is -1 where no subscription got the event: the outgoing bridge sends
-- it all the same.
CREATE INDEX termitary_events_unrouted ON termitary_events (time_us) WHERE fanned = -1;
