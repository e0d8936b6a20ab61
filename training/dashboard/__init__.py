"""The pages that the receiver serves at `/`: server-rendered, live where the browser runs JavaScript."""
