"""Another client, signed, for a device that is far away: fetched by the agent, installed by root."""

STAGED = "staged.json"  # the agent to root: a client waits; with the upgrade's number
OUTCOME = "outcome.json"  # root to the agent, in root's own folder: refused, and why; with that number
