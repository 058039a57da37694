"""Another client, signed, for a device that is far away: fetched by the agent, installed by root."""

OUTCOME = "outcome.json"  # where root leaves word for the agent that it refused
