"""What processes, their trees and their users have used, and may use."""
