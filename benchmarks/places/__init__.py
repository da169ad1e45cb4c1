"""Two people in one image: who is seen on which side, without places and with them."""
