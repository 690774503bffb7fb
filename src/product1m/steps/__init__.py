"""The eight steps: each reads artifact folders, does its work and writes artifact folders."""
